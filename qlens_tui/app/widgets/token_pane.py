"""One side of a feature: its tokens under Logit Lens next to those under Query Lens.

Ranks are shown once, on the left, for all lists. `=` marks a token that is in more than one of
the lists shown; `moved` is how many ranks it rose against Logit Lens. First order is a third list
if the width allows, or replaces another by key. The head says what is not as usual about the lists;
facts that do not fit are left out, and numbers are never cut. Where blocks of the side are off,
`vs on` is how many ranks a token rose against all on, and `switch_lines` says what else changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message

from lens_core.lenses import FIRST_ORDER, LOGIT, QUERY, lens_named
from lens_core.terms import Switch, in_order, on_path
from qlens_tui.app.views import End, ListsView, TokenLook
from qlens_tui.app.widgets.feature_pane import FeaturePane
from qlens_tui.app.widgets.line_pane import Line, Run, facts, fitted, line, width_of
from qlens_tui.app.widgets.switch_lines import CAME_IN, SwitchLines, off_blocks
from qlens_tui.app.widgets.token_columns import ALL, OTHERS, PAIR, Column, Columns, shared
from qlens_tui.engine.messages import (
    ListChange,
    Side,
    SideSignature,
    Signature,
    Transition,
)
from qlens_tui.formats import number, part_of
from qlens_tui.text import cells, fit, token_label

_ORDER: tuple[tuple[str, ...] | None, ...] = (
    None,
    *((other, QUERY.name) for other in OTHERS),
    *((LOGIT.name, other) for other in OTHERS),
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


class TokenPane(FeaturePane[ListsView]):
    """What a feature promotes, or what activates it."""

    DEFAULT_CSS = """
    TokenPane > .tokens--query { text-style: bold; }
    TokenPane > .tokens--came-in { text-style: bold; color: $text-success; }
    TokenPane > .tokens--query-head { text-style: bold; color: $text-success; }
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "tokens--other",
        "tokens--query",
        "tokens--came-in",
        "tokens--query-head",
    }

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

    def other_comparison(self) -> TokenLook:
        """With blocks off, the look with the other comparison: all on, or Logit Lens."""
        answer = self.view.shown.answer
        if answer is None or not answer.settings.off:
            return self.look
        return replace(self.look, against_all_on=not self.look.against_all_on)

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
        marked = shared(columns)
        head = [self._title(width)]
        switched = self._switched(answer)
        if remarks := self._remarks(answer, width):
            head.append(remarks)
        if switched is not None:
            said = switched.head([column.lens for column in columns], width)
            head.append(tuple((text, self.shade(style)) for text, style in said))
        if not shown:
            body: list[Line] = [((f" {self._nothing(columns)}", "pane--quiet"),)]
            return [fitted(one, width, self.ellipsis) for one in head], body
        hidden = max(0, shown - max(0, height - len(head) - 1 - len(self.foot(width, height))))
        head.append(self._heads(columns, ranks, above=self.top, below=hidden - self.top))
        body = [self._row(columns, rank, ranks, marked) for rank in range(shown)]
        return [fitted(one, width, self.ellipsis) for one in head], [
            fitted(row, width, "") for row in body
        ]

    def foot(self, width: int, height: int) -> Sequence[Line]:
        """The tokens that left the lists when blocks were switched off."""
        answer = self.view.shown.answer
        switched = None if answer is None or self.instead() else self._switched(answer)
        if answer is None or switched is None or height < _TALL:
            return ()
        columns = self._columns(self._one_side(answer), width, self.look)
        titles = {column.lens: self._names(column.lens)[1] for column in columns}
        lines = switched.left(titles, width, max(1, height // _TALL))
        return [fitted(one, width, self.ellipsis) for one in lines]

    def _switched(self, of: Signature) -> SwitchLines | None:
        """The lines about blocks of the side that are off; `None` if they are all on."""
        if not self._off(of) or self._transition == "identity":
            return None
        return SwitchLines(self.view, self._one_side(of), self.ascii_only)

    def _off(self, of: Signature) -> list[Switch]:
        """The blocks and heads of the side's path that are off."""
        return in_order(on_path(of.settings.off, self.view.blocks or ()))

    def _nothing(self, columns: Sequence[Column]) -> str:
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
        start = (*start, *self.kept_note("{}  "))
        of = self._one_side(answer)
        known = [[self.printable(self.view.note)]] if self.view.note else []
        if of.n_tokens < self.view.n_tokens:
            tokens = part_of(of.n_tokens, self.view.n_tokens)
            known.append([f"on {tokens} reference tokens", f"on {tokens} tokens"])
        known.append([f"length {number(of.norm)}, carried {number(of.transported_norm)}"])
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

    def _remarks(self, of: Signature, width: int) -> Line:
        """What is not as usual in these lists; where all is, nothing (`I` says how they are made).

        Usual are full transport through all blocks, in the paper's convention.
        """
        settings = of.settings
        pieces: list[list[str]] = []
        if settings.transition != "full":
            pieces.append([settings.transition])
        if self.view.blocks is None and settings.off:
            pieces.append([f"{len(settings.off)} switched off"])
        elif off := self._off(of):
            room = width - 1 - sum(cells(f"{piece[0]}, ") for piece in pieces)
            wordings = off_blocks(off, self.view.blocks or range(0))
            # The names of blocks go before the facts that follow.
            pieces.append([each for each in wordings if cells(each) <= room][:1] or wordings[-1:])
        if settings.convention != "paper":
            pieces.append([f"{settings.convention} convention"])
        if settings.final_norm != "apply":
            pieces.append([f"final norm: {settings.final_norm}"])
        return ((f" {facts(pieces, width - 1)}", "pane--quiet"),) if pieces else ()

    def _one_side(self, of: Signature) -> SideSignature:
        return of.value if self.side == "value" else of.key

    def _heads(self, columns: Sequence[Column], ranks: int, *, above: int, below: int) -> Line:
        """The lists' names, and on the left whether there is more than fits."""
        up, down = ("^", "v") if self.ascii_only else ("▴", "▾")
        arrows = (up if above else "") + (down if below > 0 else "")
        runs: list[Run] = [(fit(" " + arrows, ranks + 2, ellipsis=""), "pane--quiet")]
        for index, column in enumerate(columns):
            long, short = self._names(column.lens)
            title = long if cells(long) <= column.token else short
            numbers = f" {'id':>{column.id}}" if column.id else ""
            if column.score:
                numbers += f" {column.rows.measure.removesuffix(' score'):>{column.score}}"
            if column.moved:
                heading = "moved" if self._changes is None else "vs on"
                numbers += f" {heading:>{column.moved}}"
            style = "tokens--query-head" if column.lens == QUERY.name else "pane--quiet"
            runs.append((self._bar(index) + " ", "pane--quiet"))
            runs += [(fit(title, column.token, ellipsis=""), style), (numbers, "pane--quiet")]
        return line(*runs)

    def _row(
        self, columns: Sequence[Column], rank: int, ranks: int, marked: frozenset[int]
    ) -> Line:
        sign = -1 if self.look.end == "bottom" else 1
        other = self.shade("tokens--other")
        runs: list[Run] = [(f" {sign * (rank + 1):>{ranks}} ", other)]
        for index, column in enumerate(columns):
            runs.append((self._bar(index), other))
            rows = column.rows
            if rank >= len(rows.ids):
                runs.append((" " * (column.fixed + column.token), other))
                continue
            its_id = rows.ids[rank]
            is_shared, came_in = its_id in marked, its_id in column.came_in
            label = token_label(rows.tokens[rank], ascii_only=self.ascii_only)
            token = fit(label, column.token, ellipsis=self.ellipsis)
            is_bright = is_shared or column.lens == QUERY.name
            plain = "tokens--query" if is_bright else "tokens--other"
            style = "tokens--came-in" if came_in else plain
            mark = CAME_IN if came_in else "=" if is_shared else " "
            runs.append((mark + token, self.shade(style)))
            numbers = f" {its_id:>{column.id}}" if column.id else ""
            if column.score:
                numbers += f" {number(rows.shown_scores[rank]):>{column.score}}"
            if column.moved:
                moved = column.moves[rank] if column.moves else ""
                numbers += f" {moved:>{column.moved}}"
            runs.append((numbers, other))
        return line(*runs)

    def _names(self, lens: str) -> tuple[str, str]:
        if lens == QUERY.name:
            return _CARRIED[self._transition]
        found = lens_named(lens)
        return found.title, found.short

    @property
    def _changes(self) -> Mapping[str, ListChange] | None:
        """The changes against all on, by lens; `None`: lists are compared with Logit Lens."""
        answer = self.view.shown.answer
        switched = None if answer is None else self._switched(answer)
        return None if switched is None else switched.changes

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

    def _columns(self, side: SideSignature, width: int, look: TokenLook) -> list[Column]:
        """The chosen lists that fit."""
        length = look.length or self.view.k
        return Columns(side, self._transition, look, length, self._changes).fitting(width)
