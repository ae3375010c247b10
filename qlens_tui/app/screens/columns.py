"""Choose the table's columns: which, in which order, how wide. Every change shows at once.

`/` and some letters go to the next column with these in its name, or in its head in the table.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from textual import events

from qlens_tui.app.screens.choice import Choice
from qlens_tui.app.widgets.choice_list import ChoiceList
from qlens_tui.app.widgets.table_columns import Column
from qlens_tui.table.chosen_columns import NARROWEST, WIDEST, ChosenColumn
from qlens_tui.text import fit, visible

_STEP = 2  # columns by which a width changes
_NAME, _TITLE, _WIDTH = 32, 12, 5
_IN_WORDS = {
    "star": "star, reject, note", "feature": "layer and feature",
    "gain bars": "gain of key and value, bars",
    "stability bars": "stability of key and value, bars", "density bar": "density, bar",
}  # fmt: skip


class Columns(Choice):
    """The columns of the table in their order, then those that it does not show."""

    DEFAULT_CSS = """
    Columns > Vertical { width: 78; }
    """

    def __init__(
        self,
        chosen: Sequence[ChosenColumn],
        usual: Sequence[ChosenColumn],
        offered: Mapping[str, tuple[Column, str]],
        changed: Callable[[tuple[ChosenColumn, ...]], None],
        *,
        ascii_only: bool,
    ) -> None:
        """`chosen` are shown now, none: the `usual` ones; `changed` is called with each new choice.

        `offered` are all that there are, by name, with the cells of the feature in sight.
        """
        self._offered, self._changed = offered, changed
        self._usual = tuple(each for each in usual if each.name in offered)
        self._shown = list(chosen or self._usual)
        super().__init__(
            "columns of the table",
            (),
            keys=(
                ("space", "", self._toggle),
                ("K", "", lambda _, at: self._move(at, -1)),
                ("J", "", lambda _, at: self._move(at, 1)),
                ("+", "", lambda _, at: self._widen(at, _STEP)),
                ("-", "", lambda _, at: self._widen(at, -_STEP)),
                ("0", "", lambda _, at: self._widen(at, 0)),
                ("r", "", self._reset),
            ),
            ascii_only=ascii_only,
        )
        self._lines = self._written()
        self._told = (
            ("space", "show/hide"), ("J/K", "move"), ("+/-", "width"), ("0", "free"),
            ("r", "usual"), ("/", "find"), ("esc", "done"),
        )  # fmt: skip
        self._sought: str | None = None

    def on_key(self, event: events.Key) -> None:
        """Keys are letters of the name that is looked for, from `/` to enter or escape."""
        character = event.character or ""
        if self._sought is None and character != "/":
            super().on_key(event)
            return
        if self._sought is None:
            self._seek("")
        elif event.key in ("escape", "enter"):
            self._seek(None)
        elif event.key == "backspace":
            self._seek(self._sought[:-1])
        elif character.isprintable() and character:
            self._seek(self._sought + character)
        else:  # the arrows move from here
            self._seek(None)
            return
        event.stop()
        event.prevent_default()

    def _seek(self, text: str | None) -> None:
        """Go to the first column with `text` in its name, from the cursor on; `None`: no more."""
        self._sought = text
        order, at = self._order(), self.cursor or 0
        words = _plain(text or "").strip()
        found = [each for each, name in enumerate(order) if words in self._names(name)]
        title = "columns of the table"
        if text is not None:
            none = "" if found else ": no column has that in its name"
            title = f"find a column: {visible(text, ascii_only=self._ascii)}{none}"
        here = next((each for each in (*found[bisect_left(found, at) :], *found)), at)
        self.show(self._written(), title=title, cursor=here if words else at)

    def _names(self, name: str) -> str:
        """What a column can be found by."""
        column, _ = self._offered.get(name, (None, ""))
        return _plain(f"{_full(name)}, {name}, {'' if column is None else column.title}")

    def on_choice_list_taken(self, event: ChoiceList.Taken) -> None:
        event.stop()
        self._toggle(self, event.index)

    @property
    def shown(self) -> tuple[ChosenColumn, ...]:
        """The columns as they are chosen now."""
        return tuple(self._shown)

    def _order(self) -> list[str]:
        """All names: those shown, then the others."""
        shown = [each.name for each in self._shown]
        return [*shown, *(name for name in self._offered if name not in shown)]

    def _written(self) -> tuple[str, ...]:
        return tuple(map(self._line, self._order()))

    def _line(self, name: str) -> str:
        column, value = self._offered.get(name, (None, ""))
        chosen = next((each for each in self._shown if each.name == name), None)
        sign = " " if chosen is None else "x"
        width = "" if chosen is None or chosen.width is None else str(chosen.width)
        full = _full(name)
        title = "not here" if column is None else column.title
        ellipsis = "..." if self._ascii else "…"
        full = fit(full, _NAME, ellipsis=ellipsis)
        title = fit("" if title == name else title, _TITLE, ellipsis=ellipsis)
        return f"[{sign}] {full} {title} {width:>{_WIDTH}}  {value}"

    def _toggle(self, _: Choice, at: int | None) -> None:
        if at is None:
            return
        name = self._order()[at]
        if at >= len(self._shown):
            self._shown.append(ChosenColumn(name))
        elif len(self._shown) > 1:
            del self._shown[at]
        self._follow(name)

    def _move(self, at: int | None, by: int) -> None:
        if at is not None and at < len(self._shown) and 0 <= at + by < len(self._shown):
            self._shown[at], self._shown[at + by] = self._shown[at + by], self._shown[at]
            self._follow(self._shown[at + by].name)

    def _widen(self, at: int | None, by: int) -> None:
        """Give a column another width; `by` 0: as wide as there is room."""
        if at is None or at >= len(self._shown):
            return
        each = self._shown[at]
        column, _ = self._offered.get(each.name, (None, ""))
        now = each.width or (NARROWEST if column is None else column.ample)
        width = max(NARROWEST, min(now + by, WIDEST)) if by else None
        self._shown[at] = replace(each, width=width)
        self._follow(each.name)

    def _reset(self, _: Choice, at: int | None) -> None:
        self._shown = list(self._usual)
        self.show(self._written())
        self._changed(())

    def _follow(self, name: str) -> None:
        """Show and tell the new choice, with the cursor on this column."""
        self.show(self._written(), cursor=self._order().index(name))
        self._changed(self.shown)


def _full(name: str) -> str:
    """A column's name in full, which no other column has."""
    return _IN_WORDS.get(name, name.replace("_", " "))


def _plain(text: str) -> str:
    return text.casefold().replace("_", " ")
