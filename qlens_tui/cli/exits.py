"""What ends a command early, as one line on standard error and an exit status.

The core says what went wrong and how to mend it; here that becomes a process's
end: 1 failed, 2 wrong usage or bad configuration, 130 interrupted. What nobody
could have caused from outside is a defect and keeps its traceback, except a
machine that ran out of memory or disk. A closed pipe (`| head`) ends quietly.
"""

from __future__ import annotations

import errno
import sys

import click

from lens_core.errors import LensError

_FULL = (errno.ENOSPC, errno.EDQUOT)


class InterruptionError(LensError):
    """Ctrl-C; the message says what is kept."""

    exit_code = 130


def explained(error: BaseException) -> tuple[str, int] | None:
    """The line and the exit status for `error`; `None` for a defect of ours."""
    if isinstance(error, LensError):
        return str(error), error.exit_code
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
    if isinstance(error, OSError) and error.errno in _FULL:
        return "no space left on the disk: free some, or set QLENS_CACHE_DIR to another one", 1
    if _is_out_of_memory(error):
        return "out of memory: lower [compute].batch, or take another --device", 1
    return None


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    from lens_core.memory import is_out_of_memory

    return is_out_of_memory(error)
