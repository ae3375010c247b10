"""What stands in the cells of the feature table: marks, lists of tokens, numbers, small bars.

A writer returns the text of one feature's cell, which the column crops to its width. Bars are for
reading while one scrolls; the numbers are columns of their own.

Cost: only for the cells on the screen.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from qlens_tui.formats import density
from qlens_tui.table.column_names import EXPLANATION
from qlens_tui.table.matches import NO_MATCHES, Matches
from qlens_tui.text import cells, fit, token_label, visible
from qlens_tui.triage.marks import Mark

Values = Mapping[str, Any]
"""The values of one feature by the frame's columns; unknown ones are null or missing."""
Piece = tuple[str, bool]
"""Text of a cell, and whether a filter looked for it."""

_NO_MARK = Mark()
_SHORTEST_PIECE = 4
_MOST_LABELS = 8192
_MOST_PER_CELL = 8  # characters; few have no width


@dataclass(frozen=True, eq=False)
class Writing:
    """What is needed to write a cell besides the values.

    `texts` are the raw strings of all token ids (None: unknown yet, ids are shown), `marks` the
    marked features by layer, `matches` what a filter looked for.
    """

    texts: Sequence[str] | None = None
    marks: Mapping[int, Mapping[int, Mark]] = field(default_factory=dict)
    ascii_only: bool = False
    with_layer: bool = False
    matches: Matches = NO_MATCHES
    _labels: dict[int, str] = field(default_factory=dict)

    def label(self, token: int) -> str:
        """A token as lists show it, or `#31` if its text is unknown."""
        known = self._labels.get(token)
        if known is None:
            if len(self._labels) >= _MOST_LABELS:
                self._labels.clear()
            there = self.texts is not None and 0 <= token < len(self.texts)
            known = (
                token_label(self.texts[token], ascii_only=self.ascii_only)
                if there and self.texts is not None
                else f"#{token}"
            )
            self._labels[token] = known
        return known

    def fit(self, text: str, width: int) -> str:
        return fit(text, width, ellipsis=self.ellipsis)

    @property
    def ellipsis(self) -> str:
        return "..." if self.ascii_only else "…"

    @property
    def edge(self) -> str:
        """The line between two columns."""
        return "|" if self.ascii_only else "│"

    def mark(self, values: Values) -> Mark:
        return self.marks.get(values["layer"], {}).get(values["feature"], _NO_MARK)


Writer = Callable[[Writing, Values, int], Sequence[Piece]]
"""Writes a cell that has this many columns."""


def feature_cell(writing: Writing, values: Values, width: int) -> Sequence[Piece]:
    feature = str(values["feature"])
    return [(f"{values['layer']}:{feature}" if writing.with_layer else feature, False)]


def marks_cell(writing: Writing, values: Values, width: int) -> Sequence[Piece]:
    mark = writing.mark(values)
    signs = f"{'*' if mark.star else ' '}{'x' if mark.reject else ' '}{'m' if mark.note else ' '}"
    return [(signs, False)]


def tags_cell(writing: Writing, values: Values, width: int) -> Sequence[Piece]:
    words = writing.matches.words.get("tags", ())
    tags = writing.mark(values).tags
    folded = [tag.casefold() for tag in tags]
    found = [[at for at, tag in enumerate(folded) if word in tag] for word in words]

    def label(at: int) -> str:
        return visible(tags[at], ascii_only=writing.ascii_only)

    return _listed(writing, label, len(tags), found, width, ",")


def text_cell(source: Literal["label", "note", "explanation"]) -> Writer:
    def write(writing: Writing, values: Values, width: int) -> Sequence[Piece]:
        text: str = (
            values.get(source) or ""
            if source == EXPLANATION
            else getattr(writing.mark(values), source)
        )
        words = writing.matches.words.get(source, ())
        found = re.search("|".join(map(re.escape, words)), text, re.IGNORECASE) if words else None
        room = _MOST_PER_CELL * width  # a text may be very long
        if found is None:
            return [(visible(text[:room], ascii_only=writing.ascii_only), False)]
        parts = (text[: found.start()][:room], found[0], text[found.end() :][:room])
        before, hit, after = (visible(f"|{p}|", ascii_only=writing.ascii_only)[1:-1] for p in parts)
        if cells(before) + cells(hit) > width:
            before = writing.ellipsis
        return [(before, False), (hit, True), (after, False)]

    return write


def tokens_cell(source: str) -> Writer:
    def write(writing: Writing, values: Values, width: int) -> Sequence[Piece]:
        tokens = values.get(source) or ()
        words = writing.matches.tokens.get(source, ())
        found = [[at for at, token in enumerate(tokens) if token in ids] for ids in words]
        return _listed(
            writing, lambda at: writing.label(tokens[at]), len(tokens), found, width, " "
        )

    return write


def _listed(
    writing: Writing,
    label: Callable[[int], str],
    count: int,
    found: Sequence[Sequence[int]],
    width: int,
    separator: str,
) -> list[Piece]:
    """The entries of a list that fit, from the best on.

    `found` has the entries that match each word of a filter. If the best of each would not all be
    whole, the cell begins with these, and an ellipsis stands for what is left out before one.
    """
    matched = {at for entries in found for at in entries}

    def laid_out(entries: Sequence[int]) -> tuple[list[Piece], int]:
        pieces: list[Piece] = []
        room, last = width, -1
        for number, at in enumerate(entries):
            left_out = writing.ellipsis + separator if at > last + 1 else ""
            between = (separator if number else "") + left_out
            text, last = label(at), at
            needed = len(between) + cells(text)
            if needed > room:
                # Part of a token may look like another token: cut only if enough of it is visible.
                if not number or room - len(between) >= _SHORTEST_PIECE + len(writing.ellipsis):
                    cut = writing.fit(text, max(0, room - len(between)))
                    pieces += [(between, False), (cut, at in matched)]
                return pieces, number
            pieces += [(between, False), (text, at in matched)]
            room -= needed
        return pieces, len(entries)

    pieces, whole = laid_out(range(count))
    firsts = sorted({entries[0] for entries in found if entries})
    if not firsts or firsts[-1] < whole:
        return pieces
    return laid_out([*firsts, *range(firsts[-1] + 1, count)])[0]


def number_cell(source: str, form: str) -> Writer:
    def write(writing: Writing, values: Values, width: int) -> Sequence[Piece]:
        value = values.get(source)
        return [("" if value is None or not math.isfinite(value) else format(value, form), False)]

    return write


def density_cell(writing: Writing, values: Values, width: int) -> Sequence[Piece]:
    if values.get("silent"):
        return [("silent", False)]
    value = values.get("density")
    return [("" if value is None or not math.isfinite(value) else density(value), False)]


_BARS = "▁▂▃▄▅▆▇█"
_LEVELS = len(_BARS)
_SMALL = 0.02
"""A gain nearer to 0 than this is a dot."""
_FULL_GAIN, _FULL_DENSITY = 0.5, 0.1
"""Values at which a bar is full."""


def gain_bar(value: float, *, ascii_only: bool = False) -> str:
    """`-` if coherence is lost, a dot if nearly none is gained, else a bar that is full at 0.5."""
    if value <= -_SMALL:
        return "-"
    if value < _SMALL:
        return "." if ascii_only else "·"
    return _bar(value / _FULL_GAIN * _LEVELS, ascii_only)


def share_bar(value: float, *, ascii_only: bool = False) -> str:
    """A number from 0 to 1."""
    return _bar(value * _LEVELS, ascii_only)


def density_bar(value: float, *, ascii_only: bool = False) -> str:
    """A bar that is full where a feature fires on a tenth of the tokens; half a decade a step."""
    if value <= 0:
        return "0"
    return _bar(_LEVELS + 2 * math.log10(value / _FULL_DENSITY), ascii_only)


def _bar(height: float, ascii_only: bool) -> str:
    """The next of eight heights; in ASCII, a digit from 1 to 8."""
    step = max(1, min(_LEVELS, math.ceil(height)))
    return str(step) if ascii_only else _BARS[step - 1]


def bars_cell(sources: Sequence[str], bar: Callable[..., str]) -> Writer:
    """Bars of some columns, side by side; a blank for a value that is not known."""

    def write(writing: Writing, values: Values, width: int) -> Sequence[Piece]:
        drawn = []
        for source in sources:
            value = values.get(source)
            known = value is not None and math.isfinite(value)
            drawn.append(bar(value, ascii_only=writing.ascii_only) if known else " ")
        return [(" ".join(drawn), False)]

    return write
