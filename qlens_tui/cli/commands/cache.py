"""`qlens cache`: show, verify and clear the cache."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from qlens_tui.cli.options import Command, pass_output
from qlens_tui.cli.output import Output
from qlens_tui.formats import counted, in_bytes

if TYPE_CHECKING:
    from lens_core.storage.damage import Damage

_KINDS = ("models", "operators", "atlas", "contexts", "lenses", "results")

_as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@click.group()
def cache() -> None:
    """Manage the cache directory (QLENS_CACHE_DIR).

    \b
    Examples:
      qlens cache info
      qlens cache verify --repair
      qlens cache clear --kind results --yes
    """


@cache.command(cls=Command)
@_as_json
@pass_output
def info(output: Output, as_json: bool) -> None:
    """Show what the cache holds, and its size.

    \b
    Example:
      qlens cache info --json
    """
    from lens_core.directories import cache_dir
    from lens_core.storage.maintenance import cache_info

    directory = cache_dir()
    usage = cache_info(directory)
    if as_json:
        kinds = {kind: asdict(each) for kind, each in usage.items()}
        output.document({"directory": str(directory), "kinds": kinds})
        return
    from rich.text import Text

    from qlens_tui.cli.tables import plain_table

    table = plain_table()
    table.add_column("kind")
    table.add_column("entries", justify="right")
    table.add_column("size", justify="right", min_width=10)
    for kind, each in usage.items():
        table.add_row(kind, f"{each.entries:,}", in_bytes(each.bytes))
    output.show(Text(output.shown(str(directory))), table)


@cache.command(cls=Command)
@click.option(
    "--repair",
    is_flag=True,
    help="Rewrite or remove what is damaged; it is computed again when needed.",
)
@_as_json
@click.pass_context
def verify(ctx: click.Context, repair: bool, as_json: bool) -> None:
    """Check every file and entry of the cache, and the marks, against their checksums.

    Marks are not in the cache and cannot be computed again: `--repair` does not change them,
    `qlens triage restore` restores a backup. Exit status 1 if damage remains.

    \b
    Examples:
      qlens cache verify
      qlens cache verify --repair
    """
    from lens_core.directories import cache_dir
    from lens_core.storage.maintenance import cache_lacks, cache_verify

    output: Output = ctx.obj
    directory = cache_dir()
    marks = _damage_of_marks()
    damage = cache_verify(directory, repair) + marks
    remains = [each for each in damage if each.remains]
    if as_json:
        found = [
            {
                "path": str(each.path),
                "reason": each.reason,
                "removed": not each.remains,
                "outcome": each.outcome or None,
                "fix": each.fix or None,
                "remains": each.remains,
            }
            for each in damage
        ]
        output.document({"directory": str(directory), "damaged": found, "whole": not remains})
    else:
        from rich.text import Text

        verdict = "nothing is damaged"
        if remains:
            verdict = f"{counted(len(remains), 'damaged entry', 'damaged entries')}"
        elif damage:
            verdict = "all damage is repaired"
        output.show(*(Text(output.shown(_line(each))) for each in damage), Text(verdict))
    for line in cache_lacks(directory):
        output.note(line)
    if any(each not in marks for each in remains) and not repair:
        output.note("run `qlens cache verify --repair` to rewrite or remove what is damaged")
    if remains:
        ctx.exit(1)


def _damage_of_marks() -> list[Damage]:
    from lens_core.storage.damage import Damage
    from qlens_tui.triage.backups import RESTORE_NEWEST, damage_of_file, why_missing
    from qlens_tui.triage.database import RESTORE, triage_path

    path = triage_path()
    if missing := why_missing(path):
        return [Damage(path, missing, fix=RESTORE_NEWEST)]
    if not path.exists():
        return []
    return [Damage(path, reason, fix=RESTORE) for reason in damage_of_file(path)]


def _line(damage: Damage) -> str:
    reason = damage.reason
    if str(damage.path) not in reason:
        reason = f"{damage.path}: {reason}"
    fix = f"; {damage.fix}" if damage.fix and damage.fix not in reason else ""
    return f"{damage.outcome or 'damaged'}: {reason}{fix}"


@cache.command(cls=Command)
@click.option(
    "--kind",
    "kinds",
    type=click.Choice(_KINDS),
    multiple=True,
    help="Only this kind; may be repeated.  [default: all]",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@_as_json
@pass_output
def clear(output: Output, kinds: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Remove cached files, which can be computed again. Marks are not in the cache.

    \b
    Examples:
      qlens cache clear --kind results
      qlens cache clear --yes
    """
    from lens_core.directories import cache_dir
    from lens_core.storage.maintenance import cache_clear, cache_info

    directory = cache_dir()
    chosen = kinds or _KINDS
    if not yes:
        held = in_bytes(sum(cache_info(directory)[kind].bytes for kind in chosen))
        place = output.shown(str(directory))
        click.confirm(f"Remove {', '.join(chosen)} ({held}) from {place}?", abort=True, err=True)
    freed = cache_clear(directory, chosen)
    if as_json:
        output.document({"directory": str(directory), "kinds": list(chosen), "freed": freed})
        return
    from rich.text import Text

    output.show(Text(f"freed {in_bytes(freed)}"))
