"""A line to type in. Pasted text becomes one line without invisible characters.

Textual takes the first line of a paste and silently drops the others; here every line end
becomes a space, except one at the very end.
"""

from __future__ import annotations

import re
import unicodedata

from textual import events
from textual.widgets import Input

from qlens_tui.text import has_shape

_LINE_END = re.compile("\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")  # as in `str.splitlines`


class LineInput(Input):
    """A one-row input without a frame, whose text is safe to paint."""

    DEFAULT_CSS = """
    LineInput, LineInput:focus {
        border: none;
        height: 1;
        padding: 0;
        background: $surface;
    }
    """

    def on_paste(self, event: events.Paste) -> None:
        event.prevent_default()
        event.stop()
        last = list(_LINE_END.finditer(event.text))[-1:]
        ends = bool(last) and last[0].end() == len(event.text)
        self.replace(event.text[: last[0].start()] if ends else event.text, *self.selection)

    def validate_value(self, value: str) -> str:
        """Clean any text that is put in, by a key, a completion or the last visit."""
        return clean(value)

    def insert_text_at_cursor(self, text: str) -> None:
        super().insert_text_at_cursor(clean(text))

    def replace(self, text: str, start: int, end: int) -> None:
        super().replace(clean(text), start, end)


def clean(text: str) -> str:
    """Text on one line: plain spaces, and otherwise only visible characters."""
    line = _LINE_END.sub(" ", text)
    spaced = (" " if c == "\t" or unicodedata.category(c)[0] == "Z" else c for c in line)
    return "".join(c for c in spaced if c == " " or has_shape(c))
