"""What ends a command early, as one line on standard error and an exit status.

1 failed, 2 wrong usage or bad configuration, 130 interrupted. What both front ends explain
alike is in `qlens_tui.failures`; here is what only a command line has: wrong usage, a prompt
left unanswered, Ctrl-C. A closed pipe (`| head`) ends quietly (`qlens_tui.cli.main`).
"""

from __future__ import annotations

import click

from lens_core.errors import LensError, one_line
from lens_core.storage.disk_space import is_full
from qlens_tui import failures


class InterruptionError(LensError):
    """Ctrl-C; the message says what is kept."""

    exit_code = 130


class OutputError(LensError):
    """Standard output cannot be written: what is there of the result is not whole."""

    def __init__(self, error: OSError) -> None:
        reason = "no space left" if is_full(error) else error.strerror or one_line(error)
        super().__init__(
            f"cannot write to standard output: {reason}; the result is not whole: write it "
            "to another place"
        )


def explained(error: BaseException) -> tuple[str, int] | None:
    """The line and the exit status for `error`; `None` for a defect of qlens."""
    if isinstance(error, click.Abort):
        # click hides a Ctrl-C at a prompt behind what "no" and the end of input give too.
        if isinstance(error.__context__, KeyboardInterrupt):
            return "interrupted: nothing was changed", InterruptionError.exit_code
        return "nothing was changed", 1
    if isinstance(error, click.UsageError):
        where = "" if error.ctx is None else f" (see `{error.ctx.command_path} --help`)"
        return f"{error.format_message().rstrip('.')}{where}", error.exit_code
    if isinstance(error, click.ClickException):
        return error.format_message(), error.exit_code
    return failures.explained(error)
