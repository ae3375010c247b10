"""Copy text to the clipboard by OSC 52, and to a file for terminals that do not support it."""

from __future__ import annotations

from typing import Any

from textual.app import App

from lens_core.directories import state_dir
from lens_core.errors import LensError
from lens_core.storage.files import write_text_atomically

_LIMIT = 74_000  # bytes; terminals drop longer sequences


def copy(app: App[Any], text: str) -> None:
    """Copy printable text; returns a notice that names the file."""
    file = state_dir() / "copied.txt"
    try:
        write_text_atomically(file, text)
    except LensError as error:
        app.notify(str(error), severity="error")
    if len(text.encode()) <= _LIMIT:
        app.copy_to_clipboard(text)
    app.notify(f"copied; also in {file}")
