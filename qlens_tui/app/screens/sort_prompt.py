"""A prompt for a column to sort by, narrowed while it is typed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from textual.binding import Binding, BindingType

from qlens_tui.app.screens.prompt import Prompt, Suggestion
from qlens_tui.table.column_names import header
from qlens_tui.table.sort_key import SortKey
from qlens_tui.text import cells, fit

NONE = -1
"""The number of the answer that asks for no order."""
_TITLE, _VALUE = 28, 20  # columns


class SortPrompt(Prompt):
    """Asks for one of some columns; the answer's number is its place in them, or `NONE`.

    With an order already there, enter adds a column to it or reverses one of its own; ctrl+o sorts
    by the column alone (`is_alone`).
    """

    DEFAULT_CSS = "SortPrompt ChoiceList { max-height: 14; }"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+o", "alone", "Sort by this alone")]

    def __init__(
        self,
        columns: Sequence[str],
        keys: Sequence[SortKey],
        values: Mapping[str, str],
        *,
        ascii_only: bool,
    ) -> None:
        """Offer `columns`, ordered by `keys` now; `values` are those of the feature in sight."""
        said = [f"{header(key.column)} {_way(key)}" for key in keys]
        super().__init__(
            f"sorted by {', '.join(said)}; then by" if keys else "sort by",
            hint="type to narrow; enter adds it, or reverses it; ctrl+o: by it alone"
            if keys
            else "type to narrow; enter sorts, useful end first; o again adds a column",
            typed=self._narrow,
            must_choose=True,
            refusal="no column has that in its name: choose one from the list",
            ascii_only=ascii_only,
        )
        self.is_alone = False
        self._columns, self._keys, self._values = columns, keys, values

    def action_alone(self) -> None:
        self.is_alone = True
        self._take()
        self.is_alone = self._chosen is not None

    def _narrow(self, prompt: Prompt, text: str) -> None:
        words = _plain(text).split()
        found = [
            at for at, name in enumerate(self._columns) if all(w in _names(name) for w in words)
        ]
        found.sort(key=lambda at: not _names(self._columns[at]).startswith(_plain(text).strip()))
        offers = [Suggestion(self._line(at), header(self._columns[at]), at) for at in found]
        if self._keys and all(word in "none" for word in words):
            offers.append(Suggestion("none: by layer and id", "none", NONE))
        last = self._keys[-1].column if self._keys and not words else None
        at = next((n for n, each in enumerate(found) if self._columns[each] == last), 0)
        self.offer(offers, take_first=True, at=at)

    def _line(self, at: int) -> str:
        name = self._columns[at]
        ways = [f"{number} {_way(key)}" for number, key in enumerate(self._keys, 1)
                if key.column == name]  # fmt: skip
        value = self._values.get(name, "")
        right = " " * max(0, _VALUE - cells(value)) + fit(value, min(cells(value), _VALUE))
        return f"{fit(header(name), _TITLE)}{right}  {''.join(ways)}"


def _way(key: SortKey) -> str:
    return "down" if key.descending else "up"


def _plain(text: str) -> str:
    return text.casefold().replace("_", " ")


def _names(column: str) -> str:
    """What a column can be found by: its name in the table's head, then that in files."""
    return _plain(f"{header(column)} {column}")
