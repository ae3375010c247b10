"""One side of a feature: its tokens under Logit Lens beside those under Query Lens.

Ranks stand once, at the left, for all lists. `=` marks a token that is in more than one of
the lists shown; `moved` is how many ranks it rose against Logit Lens. First order joins as a
third list where the width allows, or takes another's place by key. The numbers in the head
say how the lists came about; whatever does not fit is left out whole, never cut in a number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from textual.binding import Binding, BindingType
from textual.message import Message

from qlens_tui.app.widgets.feature_pane import FeaturePane
from qlens_tui.app.widgets.line_pane import Line, Run, facts, fitted, line, width_of
from qlens_tui.engine.messages import Side, SideSignature, Signature, TokenList
from qlens_tui.formats import number, ranks_moved
from qlens_tui.text import cells, fit, token_label

Lens = Literal["logit_lens", "query_lens", "first_order"]
End = Literal["top", "bottom"]

PAIR: tuple[Lens, ...] = ("logit_lens", "query_lens")
TRIPLE: tuple[Lens, ...] = ("logit_lens", "first_order", "query_lens")
_ORDER: tuple[tuple[Lens, ...] | None, ...] = (
    None,
    ("first_order", "query_lens"),
    ("logit_lens", "first_order"),
    TRIPLE,
    PAIR,
)
LENGTHS = (5, 10, 25, 50, 100)

_TITLES: dict[Lens, tuple[str, str]] = {
    "logit_lens": ("Logit Lens", "Logit"),
    "query_lens": ("Query Lens", "Query"),
    "first_order": ("First order", "First"),
}
# Query Lens's list is that of the transition, whichever it is.
_CARRIED = {
    "full": _TITLES["query_lens"],
    "first-order": _TITLES["first_order"],
    "identity": ("Identity", "Ident."),
}
_MEANING: dict[tuple[Side, End], str] = {
    ("value", "top"): "what it promotes",
    ("value", "bottom"): "what it suppresses",
    ("key", "top"): "what activates it",
    ("key", "bottom"): "what inhibits it",
}
_TALL = 8  # lines from which one may say how the lists came about
_NARROWEST, _ROOMY, _WIDEST = 6, 16, 32  # columns of a token


@dataclass(frozen=True)
class TokenLook:
    """How lists are shown; the same for both sides, and kept between sessions.

    `lenses` is `None` for Logit Lens and Query Lens, with first order where there is room;
    `length` is the most tokens of a list, `None` for all that are there.
    """

    end: End = "top"
    ids: bool = False
    lenses: tuple[Lens, ...] | None = None
    length: int | None = None


@dataclass(frozen=True)
class _Column:
    """One list and the columns it takes; 0 for what is not shown."""

    lens: Lens
    rows: TokenList
    token: int
    id: int
    score: int
    moved: int


class TokenPane(FeaturePane[Signature]):
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
        """The user wants lists shown in another way; other panes may follow."""

        pane: TokenPane
        look: TokenLook

        @property
        def control(self) -> TokenPane:
            return self.pane

    def __init__(
        self,
        side: Side,
        *,
        look: TokenLook | None = None,
        ascii_only: bool = False,
        name: str | None = None,
        id: str | None = None,
        classes: str | None = None,
    ) -> None:
        super().__init__(ascii_only=ascii_only, name=name, id=id, classes=classes)
        self.side = side
        self._look = look or TokenLook()
        self._way: tuple[int, int] | None = None
        self._stored = ""

    def show_signature(
        self, signature: Signature, way: tuple[int, int] | None = None, stored: str = ""
    ) -> None:
        """Show this side of a signature.

        `way` is the side's first block and the end of its blocks (`None`: not known), `stored`
        the precision of the operators where it is worth saying.
        """
        self._way, self._stored = way, stored
        self.show(signature)

    @property
    def look(self) -> TokenLook:
        """How the lists are shown."""
        return self._look

    @look.setter
    def look(self, look: TokenLook) -> None:
        if look != self._look:
            self._look = look
            self.redraw()

    def action_other_end(self) -> None:
        self._choose(replace(self.look, end="bottom" if self.look.end == "top" else "top"))

    def action_ids(self) -> None:
        self._choose(replace(self.look, ids=not self.look.ids))

    def action_lenses(self) -> None:
        """The next choice of lists that does not look like this one."""
        shown = self._chosen(self.look)
        places = [*_ORDER, *_ORDER]
        start = _ORDER.index(self.look.lenses) + 1 if self.look.lenses in _ORDER else 0
        for lenses in places[start : start + len(_ORDER)]:
            look = replace(self.look, lenses=lenses)
            if self._chosen(look) != shown:
                self._choose(look)
                return

    def action_lengthen(self, by: int) -> None:
        now = self.look.length or self._longest() or LENGTHS[2]
        if by > 0:
            length = next((n for n in LENGTHS if n > now), now)
        else:
            length = next((n for n in reversed(LENGTHS) if n < now), now)
        self._choose(replace(self.look, length=length))

    def _choose(self, look: TokenLook) -> None:
        if look != self.look:
            self.look = look
            self.post_message(self.LookChanged(self, look))

    def lay_out(self, width: int, height: int) -> tuple[Sequence[Line], Sequence[Line]]:
        instead = self.instead()
        if self.view is None or instead is not None:
            head = [fitted(self._title(width), width, self.ellipsis)]
            return head, [fitted(instead or (), width, self.ellipsis)]
        side = self._one_side(self.view)
        columns = self._columns(side, width, self.look)
        shown = max((len(column.rows.ids) for column in columns), default=0)
        ranks = len(str(max(shown, 1))) + (self.look.end == "bottom")
        marked = self._shared(columns)
        head = [self._title(width)]
        if height >= _TALL:
            head.append(self._provenance(self.view, width, marked=bool(marked)))
        if not shown:
            said = f" {self.doing()}" if self.waiting else f" no {self.look.end} tokens"
            body: list[Line] = [((said, "pane--quiet"),)]
            return [fitted(one, width, self.ellipsis) for one in head], body
        hidden = max(0, shown - max(0, height - len(head) - 1))
        head.append(self._heads(columns, ranks, above=self.top, below=hidden - self.top))
        body = [self._row(columns, rank, ranks, marked) for rank in range(shown)]
        return [fitted(one, width, self.ellipsis) for one in head], [
            fitted(row, width, "") for row in body
        ]

    def _title(self, width: int) -> Line:
        view, end = self.view, self.look.end
        name = f" {self.side.upper()} {'' if end == 'top' else 'BOTTOM '}"
        start = line((name, self.title_style()), (f" {self.feature_name()}", "pane--strong"), "  ")
        meaning = _MEANING[self.side, end]
        if view is None:
            return (*start, (meaning, "pane--quiet"))
        waiting = self.waiting_for()
        if waiting:
            return (*start, (waiting, "pane--waiting"))
        of = self._one_side(view)
        known = [[f"length {number(of.norm)}, carried {number(of.transported_norm)}"]]
        if of.stability is not None:
            known.append([f"stability {of.stability:.2f}"])
        if of.relative_variance is not None:
            known.append([f"relative variance {of.relative_variance:.2f}"])
        room = width - width_of(start)
        numbers = facts(known, room)
        if cells(f"{meaning}  {numbers}") <= room:
            numbers = f"{meaning}  {numbers}"
        return (*start, (numbers, "pane--quiet"))

    def _provenance(self, view: Signature, width: int, *, marked: bool) -> Line:
        settings = view.settings
        pieces: list[list[str]] = [[settings.transition], self._blocks_on(view)]
        if settings.convention != "paper":
            pieces.append([f"{settings.convention} convention"])
        if settings.final_norm != "apply":
            pieces.append([f"final norm: {settings.final_norm}"])
        tokens = f"{view.n_tokens:,}"
        pieces.append([f"{tokens} reference tokens", f"{tokens} tokens"])
        pieces.append(self._method(view))
        if marked:
            pieces.append(["= in both lists", "= in both"])
        return ((f" {facts(pieces, width - 1)}", "pane--quiet"),)

    def _blocks_on(self, view: Signature) -> list[str]:
        off = view.settings.off
        if self._way is None:
            return [f"{len(off)} blocks off" if off else "all blocks on"]
        blocks = range(*self._way)
        on = f"{len(blocks) - sum(block in blocks for block in off)} of {len(blocks)}"
        return [f"{on} blocks on", f"{on} on"]

    def _method(self, view: Signature) -> list[str]:
        if view.method == "direct":
            return ["direct method", "direct"]
        stored = f", {self.printable(self._stored)}" if self._stored else ""
        if view.operators != "shipped":
            return [f"operators{stored}", "operators"]
        return [f"operators that come with qlens{stored}", f"qlens's operators{stored}"]

    def _one_side(self, view: Signature) -> SideSignature:
        return view.value if self.side == "value" else view.key

    def _heads(self, columns: Sequence[_Column], ranks: int, *, above: int, below: int) -> Line:
        """The lists' names, and at the left whether there is more than fits."""
        up, down = ("^", "v") if self.ascii_only else ("▴", "▾")
        arrows = (up if above else "") + (down if below > 0 else "")
        text = fit(" " + arrows, ranks + 2, ellipsis="")
        for index, column in enumerate(columns):
            long, short = _TITLES[column.lens]
            if column.lens == "query_lens" and self.view is not None:
                long, short = _CARRIED[self.view.settings.transition]
            title = long if cells(long) <= column.token else short
            text += self._bar(index) + " " + fit(title, column.token, ellipsis="")
            if column.id:
                text += f" {'id':>{column.id}}"
            text += f" {_measure(column.rows):>{column.score}}"
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
            plain = "tokens--query" if column.lens == "query_lens" else ""
            style = self.shade("tokens--shared" if shared else plain)
            runs.append((("=" if shared else " ") + token, style))
            numbers = f" {its_id:>{column.id}}" if column.id else ""
            numbers += f" {number(_scores(rows)[rank]):>{column.score}}"
            if column.moved:
                moved = ranks_moved(rows.moved[rank]) if rows.moved else ""
                numbers += f" {moved:>{column.moved}}"
            runs.append((numbers, self.shade()))
        return line(*runs)

    def _bar(self, index: int) -> str:
        return ("" if index == 0 else " |") if self.ascii_only else ("" if index == 0 else " │")

    def _chosen(self, look: TokenLook) -> tuple[Lens, ...]:
        if self.view is None:
            return look.lenses or PAIR
        side = self._one_side(self.view)
        columns = self._columns(side, self.content_size.width, look)
        return tuple(column.lens for column in columns)

    def _longest(self) -> int:
        return 0 if self.view is None else len(self._one_side(self.view).top.query_lens.ids)

    def _columns(self, side: SideSignature, width: int, look: TokenLook) -> list[_Column]:
        """The lists to show: of the choice, what fits; numbers go before lists do."""
        first = PAIR if look.lenses is None else look.lenses
        choices = [(first, True, _NARROWEST), (first[-2:], True, _NARROWEST)]
        choices += [(first[-2:], False, _NARROWEST), (first[-1:], True, 0)]
        if look.lenses is None:
            choices.insert(0, (TRIPLE, True, _ROOMY))
        for lenses, moved, least in choices:
            columns = [self._column(side, lens, look, moved) for lens in self._different(lenses)]
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

    def _different(self, lenses: tuple[Lens, ...]) -> tuple[Lens, ...]:
        """Without first order where the transition's list is just that."""
        transition = self.view.settings.transition if self.view is not None else "full"
        if transition == "first-order" and "query_lens" in lenses:
            return tuple(lens for lens in lenses if lens != "first_order")
        return lenses

    def _column(
        self, side: SideSignature, lens: Lens, look: TokenLook, with_moved: bool
    ) -> _Column:
        lists = side.top if look.end == "top" else side.bottom
        rows: TokenList = getattr(lists, lens)
        kept = slice(look.length)
        rows = replace(rows, ids=rows.ids[kept], moved=rows.moved[kept])
        moves = 0
        if with_moved and lens != "logit_lens":
            moves = max([6, *(len(ranks_moved(m)) for m in rows.moved)])
        return _Column(
            lens,
            rows,
            token=0,
            id=max([5, *(len(str(i)) for i in rows.ids)]) if look.ids else 0,
            score=max([6, *(len(number(score)) for score in _scores(rows)[kept])]),
            moved=moves,
        )

    def _shared(self, columns: Sequence[_Column]) -> frozenset[int]:
        times = Counter(i for column in columns for i in column.rows.ids)
        return frozenset(i for i, n in times.items() if n > 1)


def _measure(rows: TokenList) -> str:
    """What the numbers are: Logit Lens and Query Lens read a key out in different ways."""
    if rows.unit_scores is None:
        return "score"
    return "cosine" if "cosine" in rows.readout else "unit"


def _scores(rows: TokenList) -> tuple[float, ...]:
    """Of a key of length one on the key side, as they compare across features."""
    return rows.scores if rows.unit_scores is None else rows.unit_scores


def _fixed(column: _Column) -> int:
    """The columns of a list that are not its tokens': the mark and the numbers."""
    numbers = (column.id, column.score, column.moved)
    return 1 + sum(width + 1 for width in numbers if width)
