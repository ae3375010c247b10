"""`qlens doctor`: finds problems before they occur."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from qlens_tui.cli.options import Command
from qlens_tui.cli.output import Output
from qlens_tui.formats import counted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from qlens_tui.doctor.machine import Finding

_MARKS = {"ok": ("ok", "green"), "note": ("note", "yellow"), "broken": ("BROKEN", "bold red")}


@click.command(cls=Command, short_help="Check this machine and a configuration.")
@click.argument("config", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def doctor(ctx: click.Context, config: str | None, as_json: bool) -> None:
    """Find problems of this machine, and of CONFIG, and say how to fix them.

    Nothing is fetched. Exit status 1 if something is broken.

    \b
    Examples:
      qlens doctor
      qlens doctor gpt2-small-32k --json
    """
    from lens_core.hub import prepare_libraries
    from qlens_tui.doctor.configuration import examine_config
    from qlens_tui.doctor.machine import examine_machine

    output: Output = ctx.obj
    prepare_libraries(offline=False)
    output.step("checking")
    findings = [*examine_machine(), *(examine_config(config) if config is not None else ())]
    broken = sum(finding.state == "broken" for finding in findings)
    if as_json:
        checks = [asdict(finding) for finding in findings]
        output.document({"ok": not broken, "checks": checks})
    else:
        output.show(*_lines(output, findings, broken))
    if broken:
        ctx.exit(1)


def _lines(output: Output, findings: list[Finding], broken: int) -> list[RenderableType]:
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    from qlens_tui.cli.tables import plain_table

    table: Table = plain_table()
    table.show_header = False
    table.add_column(min_width=6)
    table.add_column(min_width=10)
    table.add_column(overflow="fold")
    for finding in findings:
        mark, style = _MARKS[finding.state]
        text = Text(output.shown(finding.found))
        if finding.fix:
            text.append(f"\n-> {output.shown(finding.fix)}")
        table.add_row(Text(mark, style=style), finding.about, text)
    verdict = f"{counted(broken, 'thing')} broken" if broken else "nothing is broken"
    return [table, Padding(Text(verdict), (1, 0, 0, 0))]
