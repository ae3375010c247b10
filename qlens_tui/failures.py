"""The line and the exit status for a failure, for the command line and the engine.

Errors of the core say what went wrong and how to fix it (`lens_core.errors`). Running out of
memory or disk also gets one line. Any other exception is a bug in qlens and keeps its traceback.
No torch here and no click: both front ends use this module, and the command line adds what only
click raises (`qlens_tui.cli.exits`).
"""

from __future__ import annotations

import sys
from pathlib import Path

from lens_core.errors import LensError
from lens_core.storage.disk_space import cannot_write, is_full


def explained(error: BaseException) -> tuple[str, int] | None:
    """The line and the exit status for `error`; `None` for a bug in qlens."""
    if isinstance(error, LensError):
        return str(error), error.exit_code
    if isinstance(error, OSError) and is_full(error):
        return _no_space(error), 1
    if _is_out_of_memory(error):
        return "out of memory: lower [compute].batch, or use another --device", 1
    return None


def _no_space(error: OSError) -> str:
    """The line for a failed write of a library; the path is named only if the error has it."""
    if isinstance(error.filename, str):
        return str(cannot_write(error, Path(error.filename)))
    return "no space left on a disk that was written to: free some (`qlens doctor` finds which)"


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    from lens_core.memory import is_out_of_memory

    return is_out_of_memory(error)
