"""A line to type in. What is pasted is made one line without what cannot be seen."""

from __future__ import annotations

import unicodedata

from textual.widgets import Input


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
    """Text on one line, without control, format and unassigned characters."""
    one_line = " ".join(text.split("\n")).replace("\t", " ")
    return "".join(c for c in one_line if unicodedata.category(c)[0] != "C")
