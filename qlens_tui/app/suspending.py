"""Ctrl+z: suspend the app with its process group, and return to the shell.

The whole process group is stopped, as a terminal not in raw mode would do: `make demo` must stop
with its app, or the shell would wait for it. The engine is in its own session and continues to
work. If nothing could resume the app (because it is the terminal's only process), it is not
stopped.
"""

from __future__ import annotations

import os
import signal
from typing import Any

from textual.app import App


def suspend(app: App[Any]) -> None:
    """Stop until `fg`, or show why not; Textual's driver restores the terminal and resumes."""
    if not _has_shell():
        app.notify("no shell to suspend to: q quits", severity="warning")
        return
    app.app_suspend_signal.publish(app)
    os.killpg(os.getpgrp(), signal.SIGTSTP)


def _has_shell() -> bool:
    """Whether a process outside our process group, but in our session, could resume it."""
    import psutil

    group, session = os.getpgrp(), os.getsid(0)
    try:
        for parent in psutil.Process().parents():
            if os.getsid(parent.pid) != session:
                return False
            if os.getpgid(parent.pid) != group:
                return True
    except (psutil.Error, OSError):
        return False
    return False
