"""Errors that end a command, as one line on standard error and an exit status.

1 failed, 2 wrong usage or bad configuration, 130 interrupted. Failures common to both front ends
are in `qlens_tui.failures`; this module adds those of a command line: wrong usage, an unanswered
prompt, Ctrl-C. A closed pipe (`| head`) ends quietly (`qlens_tui.cli.main`).
"""

from __future__ import annotations

import errno

import click

from lens_core.errors import LensError, one_line
from lens_core.storage.disk_space import is_full
from qlens_tui import failures


class InterruptionError(LensError):
    """Ctrl-C; the message says what is kept."""

    exit_code = 130


class OutputError(LensError):
    """Standard output cannot be written: the result is incomplete."""

    def __init__(self, error: OSError) -> None:
        reason = error.strerror or one_line(error)
        if is_full(error):
            reason = "no space left"
        elif error.errno == errno.EBADF:
            reason = "it is closed"
        super().__init__(
            f"cannot write to standard output: {reason}; the result is incomplete: "
            "write it elsewhere"
        )


def explained(error: BaseException) -> tuple[str, int] | None:
    """The line and the exit status for `error`; `None` for a defect of qlens."""
    if isinstance(error, click.Abort):
        # click raises the same error for Ctrl-C at a prompt, for "no" and for the end of input.
        if isinstance(error.__context__, KeyboardInterrupt):
            return "interrupted: nothing was changed", InterruptionError.exit_code
        return "nothing was changed", 1
    if isinstance(error, click.UsageError):
        where = "" if error.ctx is None else f" (see `{error.ctx.command_path} --help`)"
        return f"{error.format_message().rstrip('.')}{where}", error.exit_code
    if isinstance(error, click.ClickException):
        return error.format_message(), error.exit_code
    return failures.explained(error)
