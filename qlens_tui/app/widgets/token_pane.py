"""One side of a feature: its tokens under Logit Lens next to those under Query Lens.

Ranks are shown once, on the left, for all lists. `=` marks a token that is in more than one of
the lists shown; `moved` is how many ranks it rose against Logit Lens. First order is a third list
if the width allows, or replaces another by key. The head says how the lists were made; facts that
do not fit are left out, and numbers are never cut.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message

from lens_core.lenses import FIRST_ORDER, LENSES, LOGIT, QUERY, lens_named
from qlens_tui.app.views import End, ListsView, TokenLook
from qlens_tui.app.widgets.feature_pane import FeaturePane
from qlens_tui.app.widgets.line_pane import Line, Run, facts, fitted, line, width_of
from qlens_tui.engine.messages import Side, SideSignature, Signature, TokenList, Transition
from qlens_tui.formats import number, part_of, ranks_moved
from qlens_tui.text import cells, fit, token_label

PAIR = (LOGIT.name, QUERY.name)
_OTHERS = tuple(lens.name for lens in LENSES if lens not in (LOGIT, QUERY))
ALL = (LOGIT.name, *_OTHERS, QUERY.name)
_ORDER: tuple[tuple[str, ...] | None, ...] = (
    None,
    *((other, QUERY.name) for other in _OTHERS),
    *((LOGIT.name, other) for other in _OTHERS),
    ALL,
    PAIR,
)
LENGTHS = (5, 10, 25, 50, 100)

# Query Lens's list uses the current transition.
_CARRIED: dict[Transition, tuple[str, str]] = {
    "full": (QUERY.title, QUERY.short),
    "first-order": (FIRST_ORDER.title, FIRST_ORDER.short),
    "identity": ("Identity", "Ident."),
}
_MEANING: dict[tuple[Side, End], str] = {
    ("value", "top"): "what it promotes",
    ("value", "bottom"): "what it suppresses",
    ("key", "top"): "what activates it",
    ("key", "bottom"): "what inhibits it",
}
_TALL = 8  # height from which a line says how the lists were made
_NARROWEST, _ROOMY, _WIDEST = 6, 16, 32  # columns of a token


_NONE = TokenList("", "", (), (), (), None, ())


@dataclass(frozen=True)
class _Column:
    """One list and the widths of its columns; 0 for what is not shown."""

    lens: str
    rows: TokenList
    token: int
    id: int
    score: int
    moved: int


class TokenPane(FeaturePane[ListsView]):
    """What a feature promotes, or what activates it."""

    DEFAULT_CSS = """
    TokenPane > .tokens--shared { text-style: bold; color: $text-accent; }
    TokenPane > .tokens--query { text-style: bold; }
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {"tokens--shared", "tokens--query"}

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("b", "other_end", "Top or bottom", tooltip="Top or bottom lists"),
        Binding("i", "ids", "Token ids", tooltip="Show or hide token ids"),
        Binding("c", "lenses", "Lenses compared", tooltip="Next choice of lenses to compare"),
        Binding("plus,equals_sign", "lengthen(1)", "Longer lists", key_display="+"),
        Binding("minus", "lengthen(-1)", "Shorter lists", key_display="-"),
    ]

    @dataclass
    class LookChanged(Message):
        """The user changed how lists are shown; the other side's pane may follow."""

        pane: TokenPane
        look: TokenLook

        @property
        def control(self) -> TokenPane:
            return self.pane

    def __init__(
        self,
        side: Side,
        view: ListsView | None = None,
        *,
        ascii_only: bool = False,
        name: str | None = None,
        id: str | None = None,
        classes: str | None = None,
    ) -> None:
        super().__init__(
            view or ListsView(), ascii_only=ascii_only, name=name, id=id, classes=classes
        )
        self.side = side

    @property
    def look(self) -> TokenLook:
        """How the lists are shown."""
        return self.view.look

    def action_other_end(self) -> None:
        self._choose(self.other_end())

    def action_ids(self) -> None:
        self._choose(self.with_ids())

    def action_lenses(self) -> None:
        self._choose(self.next_lenses())

    def action_lengthen(self, by: int) -> None:
        self._choose(self.lengthened(by))

    def other_end(self) -> TokenLook:
        """The look with the other end of the rankings."""
        return replace(self.look, end="bottom" if self.look.end == "top" else "top")

    def with_ids(self) -> TokenLook:
        """The look with token ids switched on or off."""
        return replace(self.look, ids=not self.look.ids)

    def next_lenses(self) -> TokenLook:
        """The look with the next choice of lists that looks different."""
        shown = self._chosen(self.look)
        places = [*_ORDER, *_ORDER]
        start = _ORDER.index(self.look.lenses) + 1 if self.look.lenses in _ORDER else 0
        for lenses in places[start : start + len(_ORDER)]:
            look = replace(self.look, lenses=lenses)
            if self._chosen(look) != shown:
                return look
        return self.look

    def lengthened(self, by: int) -> TokenLook:
        """The look with longer lists, or shorter ones for a negative `by`."""
        usual = self.view.k or LENGTHS[2]
        now = self.look.length or usual
        lengths = sorted({*LENGTHS, usual})
        if by > 0:
            length = next((n for n in lengths if n > now), now)
        else:
            length = next((n for n in reversed(lengths) if n < now), now)
        return replace(self.look, length=length)

    def _choose(self, look: TokenLook) -> None:
        if look != self.look:
            self.post_message(self.LookChanged(self, look))

    def lay_out(self, width: int, height: int) -> tuple[Sequence[Line], Sequence[Line]]:
        instead, answer = self.instead(), self.view.shown.answer
        if answer is None or instead is not None:
            head = [fitted(self._title(width), width, self.ellipsis)]
            return head, [fitted(instead or (), width, self.ellipsis)]
        side = self._one_side(answer)
        columns = self._columns(side, width, self.look)
        shown = max((len(column.rows.ids) for column in columns), default=0)
        ranks = len(str(max(shown, 1))) + (self.look.end == "bottom")
        marked = self._shared(columns)
        head = [self._title(width)]
        if height >= _TALL:
            head.append(self._provenance(answer, width, marked=bool(marked)))
        if not shown:
            body: list[Line] = [((f" {self._nothing(columns)}", "pane--quiet"),)]
            return [fitted(one, width, self.ellipsis) for one in head], body
        hidden = max(0, shown - max(0, height - len(head) - 1))
        head.append(self._heads(columns, ranks, above=self.top, below=hidden - self.top))
        body = [self._row(columns, rank, ranks, marked) for rank in range(shown)]
        return [fitted(one, width, self.ellipsis) for one in head], [
            fitted(row, width, "") for row in body
        ]

    def _nothing(self, columns: Sequence[_Column]) -> str:
        """The text shown if all lists are empty."""
        if self.shown.awaits:
            return self.doing(self.shown.awaits)
        reason = next((column.rows.reason for column in columns if column.rows.reason), "")
        return f"none: {self.printable(reason)}" if reason else f"no {self.look.end} tokens"

    def _title(self, width: int) -> Line:
        answer, end = self.view.shown.answer, self.look.end
        name = f" {self.side.upper()} {'' if end == 'top' else 'BOTTOM '}"
        start = line((name, self.title_style()), (f" {self.feature_name()}", "pane--strong"), "  ")
        meaning = _MEANING[self.side, end]
        if answer is None:
            return (*start, (meaning, "pane--quiet"))
        waiting = self.waiting_for()
        if waiting:
            return (*start, (waiting, "pane--waiting"))
        of = self._one_side(answer)
        known = [[f"length {number(of.norm)}, carried {number(of.transported_norm)}"]]
        if of.stability is not None:
            known.append([f"stability {of.stability:.2f}"])
        if of.relative_variance is not None:
            known.append([f"relative variance {of.relative_variance:.2f}"])
        if of.overlap is not None:
            overlap = f"overlap {of.overlap:.2f}"
            known.append([f"{overlap} with fewer tokens", overlap])
        room = width - width_of(start)
        numbers = facts(known, room)
        if cells(f"{meaning}  {numbers}") <= room:
            numbers = f"{meaning}  {numbers}"
        return (*start, (numbers, "pane--quiet"))

    def _provenance(self, of: Signature, width: int, *, marked: bool) -> Line:
        settings = of.settings
        pieces: list[list[str]] = [[settings.transition], self._blocks_on(of)]
        if settings.convention != "paper":
            pieces.append([f"{settings.convention} convention"])
        if settings.final_norm != "apply":
            pieces.append([f"final norm: {settings.final_norm}"])
        if self.view.note:
            pieces.append([self.printable(self.view.note)])
        tokens = part_of(self._one_side(of).n_tokens, self.view.n_tokens)
        pieces.append([f"{tokens} reference tokens", f"{tokens} tokens"])
        pieces.append(_method(self._one_side(of)))
        if marked:
            pieces.append(["= in both lists", "= in both"])
        return ((f" {facts(pieces, width - 1)}", "pane--quiet"),)

    def _blocks_on(self, of: Signature) -> list[str]:
        off, blocks = of.settings.off, self.view.blocks
        if blocks is None:
            return [f"{len(off)} blocks off" if off else "all blocks on"]
        on = f"{len(blocks) - sum(block in blocks for block in off)} of {len(blocks)}"
        return [f"{on} blocks on", f"{on} on"]

    def _one_side(self, of: Signature) -> SideSignature:
        return of.value if self.side == "value" else of.key

    def _heads(self, columns: Sequence[_Column], ranks: int, *, above: int, below: int) -> Line:
        """The lists' names, and on the left whether there is more than fits."""
        up, down = ("^", "v") if self.ascii_only else ("▴", "▾")
        arrows = (up if above else "") + (down if below > 0 else "")
        text = fit(" " + arrows, ranks + 2, ellipsis="")
        for index, column in enumerate(columns):
            lens = lens_named(column.lens)
            long, short = lens.title, lens.short
            if lens is QUERY:
                long, short = _CARRIED[self._transition]
            title = long if cells(long) <= column.token else short
            text += self._bar(index) + " " + fit(title, column.token, ellipsis="")
            if column.id:
                text += f" {'id':>{column.id}}"
            text += f" {column.rows.measure.removesuffix(' score'):>{column.score}}"
            if column.moved:
                text += f" {'moved':>{column.moved}}"
        return ((text, "pane--quiet"),)

    def _row(
        self, columns: Sequence[_Column], rank: int, ranks: int, marked: frozenset[int]
    ) -> Line:
        sign = -1 if self.look.end == "bottom" else 1
        runs: list[Run] = [(f" {sign * (rank + 1):>{ranks}} ", self.shade())]
        for index, column in enumerate(columns):
            runs.append((self._bar(index), self.shade()))
            rows = column.rows
            if rank >= len(rows.ids):
                runs.append((" " * (_fixed(column) + column.token), self.shade()))
                continue
            its_id = rows.ids[rank]
            shared = its_id in marked
            label = token_label(rows.tokens[rank], ascii_only=self.ascii_only)
            token = fit(label, column.token, ellipsis=self.ellipsis)
            plain = "tokens--query" if column.lens == QUERY.name else ""
            style = self.shade("tokens--shared" if shared else plain)
            runs.append((("=" if shared else " ") + token, style))
            numbers = f" {its_id:>{column.id}}" if column.id else ""
            numbers += f" {number(rows.shown_scores[rank]):>{column.score}}"
            if column.moved:
                moved = ranks_moved(rows.moved[rank]) if rows.moved else ""
                numbers += f" {moved:>{column.moved}}"
            runs.append((numbers, self.shade()))
        return line(*runs)

    def _bar(self, index: int) -> str:
        return ("" if index == 0 else " |") if self.ascii_only else ("" if index == 0 else " │")

    def _chosen(self, look: TokenLook) -> tuple[str, ...]:
        answer = self.view.shown.answer
        if answer is None:
            return look.lenses or PAIR
        columns = self._columns(self._one_side(answer), self.content_size.width, look)
        return tuple(column.lens for column in columns)

    @property
    def _transition(self) -> Transition:
        """The settings of the lists that are drawn."""
        answer = self.view.shown.answer
        return "full" if answer is None else answer.settings.transition

    def _columns(self, side: SideSignature, width: int, look: TokenLook) -> list[_Column]:
        """The chosen lists that fit; numbers are dropped before lists."""
        first = PAIR if look.lenses is None else look.lenses
        choices = [(first, True, _NARROWEST), (first[-2:], True, _NARROWEST)]
        choices += [(first[-2:], False, _NARROWEST), (first[-1:], True, 0)]
        if look.lenses is None:
            choices.insert(0, (ALL, True, _ROOMY))
        for lenses, moved, least in choices:
            columns = [
                self._column(side, lens, look, moved) for lens in self._different(side, lenses)
            ]
            ranks = len(str(max(len(column.rows.ids) for column in columns))) + 2
            ranks += look.end == "bottom"
            taken = ranks + sum(map(_fixed, columns)) + 2 * (len(columns) - 1)
            each, more = divmod(max(0, width - taken), len(columns))
            if each >= least:
                break
        return [
            replace(column, token=min(_WIDEST, each + (index >= len(columns) - more)))
            for index, column in enumerate(columns)
        ]

    def _different(self, side: SideSignature, lenses: tuple[str, ...]) -> tuple[str, ...]:
        """The lists that the side has, without first order if that is the current transition."""
        had = tuple(lens for lens in lenses if lens in side.top)
        if self._transition == "first-order" and QUERY.name in had:
            return tuple(lens for lens in had if lens != FIRST_ORDER.name)
        return had

    def _column(self, side: SideSignature, lens: str, look: TokenLook, with_moved: bool) -> _Column:
        lists = side.top if look.end == "top" else side.bottom
        # An atlas has no bottom lists.
        rows = _NONE if lists is None else lists[lens]
        kept = slice(look.length or self.view.k)
        rows = replace(rows, ids=rows.ids[kept], moved=rows.moved[kept])
        moves = 0
        if with_moved and lens != LOGIT.name:
            moves = max([6, *(len(ranks_moved(m)) for m in rows.moved)])
        return _Column(
            lens,
            rows,
            token=0,
            id=max([5, *(len(str(i)) for i in rows.ids)]) if look.ids else 0,
            score=max([6, *(len(number(score)) for score in rows.shown_scores[kept])]),
            moved=moves,
        )

    def _shared(self, columns: Sequence[_Column]) -> frozenset[int]:
        times = Counter(i for column in columns for i in column.rows.ids)
        return frozenset(i for i, n in times.items() if n > 1)


def _method(of: SideSignature) -> list[str]:
    if of.operators == "none":
        return ["direct method", "direct"]
    if of.operators != "shipped":
        return ["operators"]
    return ["operators that come with qlens, float16", "qlens's operators, float16"]


def _fixed(column: _Column) -> int:
    """The width of a list without its tokens: the mark and the numbers."""
    numbers = (column.id, column.score, column.moved)
    return 1 + sum(width + 1 for width in numbers if width)
