"""Which columns of the feature table fit a width, and how wide they are.

They fit in their order, and `left` of them are scrolled off, as in a spreadsheet. What the rows are
sorted by or a filter looked in stays in sight, and what has no fixed width takes what is left.

Cost: only if the width, the order or the choice changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from qlens_tui.app.widgets.table_columns import Column, arranged
from qlens_tui.table.chosen_columns import ChosenColumn


@dataclass(frozen=True)
class Placed:
    """A column that fits: its width, and whether a line or a space follows."""

    column: Column
    width: int
    edge: bool


@dataclass(frozen=True)
class Fitted:
    """The columns that fit, each with a cell for its edge; how many are left and right of them."""

    placed: tuple[Placed, ...]
    left: int
    right: int


@lru_cache(maxsize=8)
def fitted_columns(
    id_width: int,
    width: int,
    sorted_by: tuple[str, ...] = (),
    wanted: tuple[str, ...] = (),
    chosen: tuple[ChosenColumn, ...] = (),
    left: int = 0,
) -> Fitted:
    """The columns that fit: the `chosen` ones, or if that is empty the usual ones.

    Those that show columns of the frame that the rows are sorted by, and after these `wanted`, are
    dropped last, do not scroll, and are added if they are none of the table's own.
    """
    needed = (*sorted_by, *wanted)
    first = {name: number for number, name in reversed(list(enumerate(needed)))}
    columns = [_with_arrow(column, sorted_by) for column in arranged(chosen, needed)]
    columns[0] = columns[0].of_width(max(columns[0].least, id_width))
    need = {
        column.name: min(first[name] for name in column.sources if name in first)
        for column in columns
        if not first.keys().isdisjoint(column.sources)
    }
    scrolling = [each for each in columns if not each.is_fixed and each.name not in need]
    gone = scrolling[: max(0, min(left, len(scrolling) - 1))]
    kept = [each for each in columns if each not in gone]
    is_usual = not chosen and not gone

    def room() -> int:
        """How many cells these columns need, including edges."""
        ample = is_usual and any(each.is_extra and each.name not in need for each in kept)
        return sum((each.ample if ample else each.least) + 1 for each in kept)

    dropped = 0
    while len(kept) > 1 and room() > width - bool(dropped):  # for the sign that there are more
        others = [each for each in kept[1:] if each.name not in need]
        kept.remove(others[-1] if others else max(kept[1:], key=lambda each: need[each.name]))
        dropped += 1
    edges = [column.has_edge for column in kept[1:]]
    placed = map(Placed, kept, _widths(kept, width - bool(dropped)), [*edges, False])
    found = Fitted(tuple(placed), len(gone), dropped)
    if gone and not dropped:
        # There may be room for more on the left.
        more = fitted_columns(id_width, width, sorted_by, wanted, chosen, len(gone) - 1)
        return found if more.right else more
    return found


def _with_arrow(column: Column, sorted_by: Sequence[str]) -> Column:
    """The column with room for an arrow and its number, if the rows are sorted by several."""
    if len(sorted_by) < 2 or not column.is_right or not {*sorted_by} & {*column.sources}:
        return column
    arrow = 2
    return column.of_width(max(column.least, min(len(column.title), column.least) + arrow))


def _widths(kept: Sequence[Column], width: int) -> list[int]:
    """The least widths, and a cell more for one after the other while there is room."""
    widths = [column.least for column in kept]
    spare = max(0, width - sum(each + 1 for each in widths))
    while spare and (growing := [k for k, column in enumerate(kept) if widths[k] < column.most]):
        for k in growing[:spare]:
            widths[k] += 1
        spare -= min(spare, len(growing))
    return widths
