"""`qlens triage`: the backups of stars, labels, tags and notes, and restoring one."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qlens_tui.cli.options import Command, pass_output
from qlens_tui.cli.output import Output
from qlens_tui.formats import counted, in_bytes

if TYPE_CHECKING:
    from rich.table import Table

    from qlens_tui.triage.backups import Backup, Restored


@click.group()
def triage() -> None:
    """Manage the file of stars, labels, tags and notes (QLENS_DATA_DIR).

    \b
    Examples:
      qlens triage restore
      qlens triage restore latest
    """


@triage.command(cls=Command)
@click.argument("backup", required=False)
@click.option(
    "--salvage",
    is_flag=True,
    help="Keep what is undamaged in the current file, instead of a backup.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@pass_output
def restore(output: Output, backup: str | None, salvage: bool, yes: bool, as_json: bool) -> None:
    """Restore the marks from BACKUP: its number in the list, its name, or `latest`.

    Without BACKUP the backups are listed and nothing is changed. The replaced file is kept next
    to the new one. Close the app first: a session that has the file open can then no longer write.

    \b
    Examples:
      qlens triage restore
      qlens triage restore latest
      qlens triage restore 2 --yes
      qlens triage restore --salvage
    """
    from qlens_tui.triage import backups
    from qlens_tui.triage.database import triage_path

    if backup is not None and salvage:
        raise click.UsageError("give a backup or --salvage, not both")
    path = triage_path()
    if backup is None and not salvage:
        _list(output, path, backups.backups_of(path), as_json=as_json)
        return
    source = path if backup is None else backups.find_backup(path, backup)
    if not yes:
        what = "what is undamaged in it" if backup is None else output.shown(source.name)
        click.confirm(
            f"Replace {output.shown(str(path))} by {what}? The current file is kept.",
            abort=True,
            err=True,
        )
    done = backups.salvage(path) if backup is None else backups.restore(path, source)
    _tell(output, path, done, as_json=as_json)


def _list(output: Output, path: Path, found: list[Backup], *, as_json: bool) -> None:
    if as_json:
        output.document({"path": str(path), "backups": [_document(each) for each in found]})
        return
    from rich.text import Text

    output.show(Text(f"backups of {output.shown(str(path))}, newest first"))
    if found:
        output.show(_table(output, found))
        output.note("`qlens triage restore NUMBER` restores one")
    else:
        output.show(Text("none yet: one is made when the marks are opened after a change"))


def _table(output: Output, found: list[Backup]) -> Table:
    from rich.text import Text

    from qlens_tui.cli.tables import plain_table

    table = plain_table()
    table.add_column("", justify="right")
    table.add_column("made")
    table.add_column("features", justify="right")
    table.add_column("size", justify="right", min_width=10)
    table.add_column("name", overflow="fold")
    for number, each in enumerate(found, 1):
        made = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(each.made))
        features = "damaged" if each.damage else f"{each.features:,}"
        name = Text(output.shown(each.name))
        table.add_row(str(number), made, features, in_bytes(each.bytes), name)
    return table


def _tell(output: Output, path: Path, done: Restored, *, as_json: bool) -> None:
    replaced = None if done.replaced is None else str(done.replaced)
    if as_json:
        output.document(
            {
                "path": str(path),
                "source": str(done.source),
                "features": done.features,
                "replaced": replaced,
            }
        )
        return
    from rich.text import Text

    output.show(Text(f"restored {counted(done.features, 'marked feature')}"))
    if replaced is not None:
        output.show(Text(f"the replaced file is {output.shown(replaced)}"))


def _document(backup: Backup) -> dict[str, Any]:
    made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(backup.made))
    return asdict(backup) | {
        "path": str(backup.path), "made": made, "damage": backup.damage or None,
    }  # fmt: skip
