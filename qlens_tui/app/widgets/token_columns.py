"""The lists of a token pane as columns: which ones fit, and how wide their parts are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lens_core.lenses import FIRST_ORDER, LENSES, LOGIT, QUERY
from qlens_tui.app.views import TokenLook
from qlens_tui.engine.messages import ListChange, SideSignature, TokenList, Transition
from qlens_tui.formats import number, ranks_moved

PAIR = (LOGIT.name, QUERY.name)
OTHERS = tuple(lens.name for lens in LENSES if lens not in (LOGIT, QUERY))
ALL = (LOGIT.name, *OTHERS, QUERY.name)

_NARROWEST, _COMFORTABLE, _ROOMY, _WIDEST = 6, 12, 16, 32  # columns of a token
_NONE = TokenList("", "", (), (), (), None, ())


@dataclass(frozen=True)
class Column:
    """One list and the widths of its columns; 0 for what is not shown.

    `moves` are the ranks moved as shown, empty if unknown; `came_in` the tokens that are marked.
    """

    lens: str
    rows: TokenList
    token: int
    id: int
    score: int
    moved: int
    moves: tuple[str, ...]
    came_in: frozenset[int]

    @property
    def fixed(self) -> int:
        """The width without tokens: the mark and the numbers."""
        return 1 + sum(width + 1 for width in (self.id, self.score, self.moved) if width)


@dataclass(frozen=True)
class Columns:
    """Chooses and measures the columns of one side.

    `length` is how many tokens are shown (`None`: all). `changes`, by lens, are against all blocks
    on; `None` to compare with Logit Lens.
    """

    side: SideSignature
    transition: Transition
    look: TokenLook
    length: int | None
    changes: Mapping[str, ListChange] | None

    def fitting(self, width: int) -> list[Column]:
        """The chosen lists that fit; numbers are dropped before lists, the first list's first."""
        first = PAIR if self.look.lenses is None else self.look.lenses
        every, answer = frozenset(first), frozenset(first[1:])
        choices = [(first, every, True, _COMFORTABLE), (first, answer, True, _NARROWEST)]
        choices += [(first[-2:], answer, True, _NARROWEST), (first[-2:], answer, False, _NARROWEST)]
        choices.append((first[-1:], every, True, 0))
        if self.look.lenses is None:
            choices.insert(0, (ALL, frozenset(ALL), True, _ROOMY))
        for lenses, scored, moved, least in choices:
            columns = [
                self._column(lens, lens in scored, moved) for lens in self._different(lenses)
            ]
            ranks = len(str(max(len(column.rows.ids) for column in columns))) + 2
            ranks += self.look.end == "bottom"
            taken = ranks + sum(column.fixed for column in columns) + 2 * (len(columns) - 1)
            each, more = divmod(max(0, width - taken), len(columns))
            if each >= least:
                break
        return [
            replace(column, token=min(_WIDEST, each + (index >= len(columns) - more)))
            for index, column in enumerate(columns)
        ]

    def _different(self, lenses: tuple[str, ...]) -> tuple[str, ...]:
        """The lists that the side has, without first order if that is the current transition."""
        had = tuple(lens for lens in lenses if lens in self.side.top)
        if self.transition == "first-order" and QUERY.name in had:
            return tuple(lens for lens in had if lens != FIRST_ORDER.name)
        return had

    def _column(self, lens: str, with_score: bool, with_moved: bool) -> Column:
        look = self.look
        lists = self.side.top if look.end == "top" else self.side.bottom
        # An atlas has no bottom lists.
        rows = _NONE if lists is None else lists[lens]
        kept = slice(self.length)
        rows = replace(rows, ids=rows.ids[kept], moved=rows.moved[kept])
        change = None if self.changes is None else self.changes.get(lens)
        moves = tuple(map(ranks_moved, rows.moved)) if self.changes is None else ()
        if change is not None:
            by_id = dict(zip(change.ids, change.moved, strict=True))
            moves = tuple(ranks_moved(by_id[i]) if i in by_id else "" for i in rows.ids)
        return Column(
            lens,
            rows,
            token=0,
            id=max([5, *(len(str(i)) for i in rows.ids)]) if look.ids else 0,
            score=max([6, *(len(number(score)) for score in rows.shown_scores[kept])])
            if with_score
            else 0,
            moved=max([6, *map(len, moves)]) if with_moved and lens != LOGIT.name else 0,
            moves=moves,
            came_in=frozenset(token.id for token in change.came_in) if change else frozenset(),
        )


def shared(columns: Sequence[Column]) -> frozenset[int]:
    """The tokens that are in more than one list."""
    times = Counter(i for column in columns for i in column.rows.ids)
    return frozenset(i for i, n in times.items() if n > 1)
