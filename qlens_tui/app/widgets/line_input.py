"""A line to type in. What is pasted is made one line without what cannot be seen."""

from __future__ import annotations

import unicodedata

from textual.widgets import Input

from qlens_tui.text import has_shape


class LineInput(Input):
    """An input of one row without a frame, whose text is safe to paint."""

    DEFAULT_CSS = """
    LineInput, LineInput:focus {
        border: none;
        height: 1;
        padding: 0;
        background: $surface;
    }
    """

    def validate_value(self, value: str) -> str:
        """Whatever is put in, by a key, a completion or a place from the last visit."""
        return clean(value)

    def insert_text_at_cursor(self, text: str) -> None:
        super().insert_text_at_cursor(clean(text))

    def replace(self, text: str, start: int, end: int) -> None:
        super().replace(clean(text), start, end)


def clean(text: str) -> str:
    """Text on one line: plain spaces, and otherwise only what a person sees."""
    spaced = (" " if c in "\n\t" or unicodedata.category(c)[0] == "Z" else c for c in text)
    return "".join(c for c in spaced if c == " " or has_shape(c))
