"""Ctrl+z: the app stops, with all that it was started by, and the shell has the terminal.

The whole process group is stopped, as by the terminal itself where it is not in raw mode:
`make demo` stops with its app, or the shell would wait for it. The engine is in a session of its
own and goes on with what it does. Where nobody could continue it (an app that is the terminal's
only process) nothing is stopped.
"""

from __future__ import annotations

import os
import signal
from typing import Any

from textual.app import App


def suspend(app: App[Any]) -> None:
    """Stop until `fg`, or say why not; Textual's driver puts the terminal back and resumes."""
    if not _has_shell():
        app.notify("no shell to suspend to: q quits", severity="warning")
        return
    app.app_suspend_signal.publish(app)
    os.killpg(os.getpgrp(), signal.SIGTSTP)


def _has_shell() -> bool:
    """Whether somebody outside our process group, but in our session, could continue it."""
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
