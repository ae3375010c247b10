"""The line and the exit status for a failure, for the command line and the engine.

The core says what went wrong and how to fix it (`lens_core.errors`). A machine that ran out
of memory or disk gets one line as well. Anything else is a defect of qlens and keeps its
traceback. No torch here and no click: both front ends ask this module, and the command line
adds what only click raises (`qlens_tui.cli.exits`).
"""

from __future__ import annotations

import errno
import sys

from lens_core.errors import LensError

_FULL = (errno.ENOSPC, errno.EDQUOT)


def explained(error: BaseException) -> tuple[str, int] | None:
    """The line and the exit status for `error`; `None` for a defect of qlens."""
    if isinstance(error, LensError):
        return str(error), error.exit_code
    if isinstance(error, OSError) and error.errno in _FULL:
        return "no space left on the disk: free some, or set QLENS_CACHE_DIR to another one", 1
    if _is_out_of_memory(error):
        return "out of memory: lower [compute].batch, or use another --device", 1
    return None


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    from lens_core.memory import is_out_of_memory

    return is_out_of_memory(error)
