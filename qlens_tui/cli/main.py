"""The `qlens` command: its subcommands, and how it ends.

This file and the command modules import nothing heavy, so that `--help` is fast;
a command imports the core when it runs. Every failure that a user can cause is
reported in one line (see `failures`).
"""

from __future__ import annotations

import sys
from typing import Any

import click

from qlens_tui.cli.commands.atlas import atlas
from qlens_tui.cli.commands.build import build, merge
from qlens_tui.cli.commands.cache import cache
from qlens_tui.cli.commands.contexts import contexts
from qlens_tui.cli.commands.doctor import doctor
from qlens_tui.cli.commands.export import export
from qlens_tui.cli.commands.open import demo, open_
from qlens_tui.cli.commands.score import score
from qlens_tui.cli.commands.search import search
from qlens_tui.cli.commands.show import show
from qlens_tui.cli.commands.triage import triage
from qlens_tui.cli.exits import InterruptionError, explained
from qlens_tui.cli.output import Output
from qlens_tui.cli.streams import prepare_streams


class Qlens(click.Group):
    """A group whose commands report failures in one line instead of a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def main(self, *args: Any, **more: Any) -> Any:
        output = Output()
        more |= {"standalone_mode": False, "obj": output}
        try:
            status = super().main(*args, **more)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            status = error.exit_code
        except BrokenPipeError:
            status = 1
        except BaseException as error:
            ending = explained(error)
            if ending is None:
                raise
            line, status = ending
            if isinstance(error, click.Abort) and error.__context__ is not None:
                click.echo(err=True)  # end the line of the interrupted prompt
            output.note(line)
        sys.exit(status if isinstance(status, int) else 0)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            # Otherwise click prints an empty line and reports a failure.
            raise InterruptionError("interrupted") from error


def _print_version(ctx: click.Context, _parameter: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        from importlib.metadata import PackageNotFoundError, version

        try:
            click.echo(f"qlens {version('qlens')}")
        except PackageNotFoundError:
            click.echo("qlens (not installed)")
        ctx.exit()


@click.group(
    cls=Qlens,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Results go to stdout, everything else to stderr. Exit status: 0 done, 1 failed, "
    "2 wrong usage or bad configuration, 130 interrupted.",
)
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version,
    help="Print the version and exit.",
)  # fmt: skip
def cli() -> None:
    """Explain the features of sparse dictionaries with Query Lens.

    CONFIG is a TOML file, or the name of a bundled one such as smollm2-neurons.

    \b
    Examples:
      qlens doctor smollm2-neurons
      qlens show smollm2-neurons 6:35
      qlens build smollm2-neurons
      qlens search smollm2-neurons " trade"
      qlens atlas smollm2-neurons -o neurons.parquet
      qlens contexts smollm2-neurons --corpus bundled
      qlens score demo --layers 10
      qlens export smollm2-neurons --starred -o starred.csv
    """


for command in (
    demo, open_, show, search, build, merge, atlas, contexts, score, export, doctor, cache, triage,
):  # fmt: skip
    cli.add_command(command)


def main() -> None:
    """The console entry point."""
    prepare_streams()
    cli(prog_name="qlens")
