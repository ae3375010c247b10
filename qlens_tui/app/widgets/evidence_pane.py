"""Evidence about a feature: where it fires, and its nearest features.

Contexts are aligned at the token where the feature fires most, which is in brackets, with the text
before and after it; every token is shaded by its activation (`qlens_tui.shading`). First come as
many of the strongest as there is room for beside one from each quarter of the range, then the
others, the nearest features, lengths and stability. Enter opens a context or a feature.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message

from qlens_tui.app.views import EvidenceView
from qlens_tui.app.widgets.feature_pane import FeaturePane
from qlens_tui.app.widgets.line_pane import Line, Run, facts, fitted, line, width_of
from qlens_tui.engine.messages import Context, Evidence, Neighbour
from qlens_tui.formats import density, name_of_text, number, tokens_of
from qlens_tui.shading import SHADES as QUARTERS
from qlens_tui.shading import Piece, bars, concordance, has_no_colour
from qlens_tui.text import fit, token_label, wrapped

_FEWEST = 3  # of the strongest contexts before those of the quarters
_PLACE = 3  # columns of the name of a group of contexts
_LONGEST = 2000  # characters of an explanation
_LABEL = 10  # columns of a fact's label
_BESIDE, _NEIGHBOURS = 120, 46  # width from which neighbours are next to contexts, and their width


class EvidencePane(FeaturePane[EvidenceView]):
    """A feature's contexts and neighbours."""

    DEFAULT_CSS = """
    EvidencePane > .evidence--token { text-style: bold underline; color: $text-success; }
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {"evidence--token"}

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "Open", tooltip="Open the chosen context, or go to the feature")
    ]

    @dataclass
    class FeatureChosen(Message):
        """The user chose this feature."""

        pane: EvidencePane
        layer: int
        feature: int

        @property
        def control(self) -> EvidencePane:
            return self.pane

    @dataclass
    class ContextChosen(Message):
        """The user chose this context of the feature."""

        pane: EvidencePane
        of: Evidence
        context: Context

        @property
        def control(self) -> EvidencePane:
            return self.pane

    def __init__(
        self,
        view: EvidenceView | None = None,
        *,
        ascii_only: bool = False,
        name: str | None = None,
        id: str | None = None,
        classes: str | None = None,
    ) -> None:
        super().__init__(
            view or EvidenceView(), ascii_only=ascii_only, name=name, id=id, classes=classes
        )
        self._chosen: int | None = None
        self._choices: list[tuple[int, Context | Neighbour]] = []
        """What enter opens, each with its line of the body."""
        self._digits = ascii_only or has_no_colour()

    @property
    def chosen(self) -> Context | Neighbour | None:
        """The context or neighbour that enter opens, if it is on the screen."""
        chosen = self._chosen
        return self._choices[chosen][1] if chosen in self._on_screen() else None

    def view_changed(self, *, is_other_feature: bool) -> None:
        """For another feature, nothing is chosen."""
        if is_other_feature:
            self._chosen = None

    def action_scroll(self, by: int) -> None:
        """Choose the next context or neighbour on the screen; if there is none, scroll."""
        beyond = self._beyond(by)
        if abs(by) != 1 or not beyond:
            super().action_scroll(by)
            beyond = self._beyond(by) if abs(by) == 1 else []
        if beyond:
            self._chosen = beyond[0]
            self.redraw()

    def _beyond(self, by: int) -> list[int]:
        """What is on the screen after (`by` 1) or before what is chosen, the nearest first."""
        seen = self._on_screen()
        if self._chosen in seen:
            seen = [at for at in seen if (at - self._chosen) * by > 0]
        return seen if by > 0 else seen[::-1]

    def action_open(self) -> None:
        chosen, of = self.chosen, self.view.shown.answer
        if self.is_grey or of is None:
            return
        if isinstance(chosen, Context):
            self.post_message(self.ContextChosen(self, of, chosen))
        elif chosen is not None:
            self.post_message(self.FeatureChosen(self, chosen.layer, chosen.feature))

    def _on_screen(self) -> list[int]:
        lines = range(self.top, self.top + self.body_height)
        return [at for at, (line, _) in enumerate(self._choices) if line in lines]

    def _offer(self, line: int, what: Context | Neighbour) -> tuple[str, str]:
        """Let `what`, on this line of the body, be chosen; its sign and style."""
        is_chosen = len(self._choices) == self._chosen
        self._choices.append((line, what))
        here = "pane--cursor-grey" if self.is_grey else "pane--cursor"
        return ">" if is_chosen else " ", here if is_chosen and self.has_focus else ""

    def lay_out(self, width: int, height: int) -> tuple[Sequence[Line], Sequence[Line]]:
        self._choices = []
        instead, answer = self.instead(), self.view.shown.answer
        head = [fitted(self._title(width), width, self.ellipsis)]
        if answer is None or instead is not None:
            return head, [fitted(instead or (), width, self.ellipsis)]
        beside = width >= _BESIDE
        room = width - (_NEIGHBOURS + 1) * beside
        body = self._explanation(room)
        body += self._contexts(answer, room, range(len(body), height - len(head)))
        if not beside:
            body += [(), *self._nearest(answer, len(body) + 1), (), *self._facts()]
        else:
            left = [*body, ()]
            left += self._facts()
            right = list(self._nearest(answer, 0))
            body = [
                (*fitted(one, room, self.ellipsis), (" ", ""), *other)
                for one, other in zip_longest(left, right, fillvalue=())
            ]
        return head, [fitted(one, width, self.ellipsis) for one in body]

    def _title(self, width: int) -> Line:
        start = line(
            (" EVIDENCE ", self.title_style()), (f" {self.feature_name()}", "pane--strong"), "  "
        )
        waiting = self.waiting_for()
        of = self.view.shown.answer
        if of is None:
            return start
        if waiting:
            return (*start, (waiting, "pane--waiting"))
        start = (*start, *self.kept_note("{}  "))
        if of.silent:
            text = self.printable(tokens_of(of.text))
            return (*start, (f"silent in {text}", "pane--waiting"))
        fired = f"{sum(of.histogram):,}"
        text = self.printable(tokens_of(of.text))
        name = self.printable(name_of_text(of.text))
        short = f"on {fired} of {of.n_tokens:,}"
        pieces = [
            [f"fires on {fired} of {text}", f"{short} in {name}", short],
            [f"density {density(of.density)}"],
            [f"at most {number(of.max_activation)}"],
        ]
        return (*start, (facts(pieces, width - width_of(start)), "pane--quiet"))

    def _explanation(self, width: int) -> list[Line]:
        text = self.printable(self.view.explanation[:_LONGEST])
        if not text:
            return []
        first, *others = wrapped(text, max(1, width - _LABEL - 3))
        return [
            self._fact("explained", first),
            *(self._fact("", each) for each in others),
        ]

    def _contexts(self, of: Evidence, width: int, lines: range) -> Iterator[Line]:
        """The histogram and all contexts; the most telling ones are on these lines of the body."""
        if of.silent:
            return
        shown = bars(of.histogram, ascii_only=self.ascii_only)
        text = self.printable(tokens_of(of.text))
        yield line(
            (" 0 ", "pane--quiet"), (shown, self.shade("pane--strong")),
            (f" {number(len(of.histogram) * of.bin_width)}  {text}", "pane--quiet"),
        )  # fmt: skip
        rows = _ordered(of, len(lines) - 1)
        score = max(len(number(at.activation)) for _, at in rows)
        room = max(0, width - _PLACE - score - 4)
        # More text before the token, which can affect the activation.
        before = room * 11 // 20
        last = ""
        for index, (group, at) in enumerate(rows, lines.start + 1):
            sign, style = self._offer(index, at)
            named = "" if group == last else group
            place = f"{sign}{named:<{_PLACE}} {number(at.activation):>{score}} "
            last = group
            yield line(
                (place, style or "pane--quiet"), " ",
                *self._runs(of, at, before, room - before),
            )  # fmt: skip

    def _runs(self, of: Evidence, at: Context, before: int, after: int) -> Iterator[Run]:
        shown = concordance(
            at, of.max_activation, before, after, ascii_only=self.ascii_only,
            digits=self._digits, ellipsis=self.ellipsis,
        )  # fmt: skip
        for piece in shown:
            yield from self._run(piece)

    def _run(self, piece: Piece) -> Iterator[Run]:
        shade = f"pane--shade-{piece.shade}" if piece.shade else ""
        if not piece.is_peak:
            yield piece.text, self.shade(shade)
            return
        token = self.shade("evidence--token")
        yield "[", token
        yield piece.text[1:-1], self.shade(shade or "evidence--token")
        yield "]", token

    def _nearest(self, of: Evidence, start: int) -> Iterator[Line]:
        """The neighbours of both sides; the first line is line `start` of the body."""
        named = max((len(_name(near)) for near in (*of.by_value, *of.by_key)), default=0)
        for title, nearest in (("nearest by value", of.by_value), ("nearest by key", of.by_key)):
            if title.endswith("key"):
                yield ()
                start += 1
            yield ((f" {title}", self.shade("pane--strong")),)
            start += 1
            for near in nearest:
                sign, style = self._offer(start, near)
                tokens = self.view.labels.get((near.layer, near.feature), ())
                labels = "  ".join(token_label(t, ascii_only=self.ascii_only) for t in tokens)
                text = f"{sign}{_name(near):>{named}}  {near.cosine:+.2f}  {labels}"
                yield ((text, style or self.shade()),)
                start += 1

    def _facts(self) -> Iterator[Line]:
        view, signature = self.view, self.view.signature
        if signature is not None and (signature.layer, signature.feature) == view.shown.of:
            arrow = "->" if self.ascii_only else "→"
            sides = ("value", signature.value), ("key", signature.key)
            lengths = (
                f"{name} {number(side.norm)} {arrow} {number(side.transported_norm)}"
                for name, side in sides
            )
            yield self._fact("length", "   ".join(lengths))
            stable = [f"{n} {s.stability:.2f}" for n, s in sides if s.stability is not None]
            known = "   ".join(stable) or view.atlas_stability or "not known"
            yield self._fact("stability", known)

    def _fact(self, label: str, text: str) -> Line:
        return line((f" {fit(label, _LABEL)} ", "pane--quiet"), (text, self.shade()))


def _name(near: Neighbour) -> str:
    return f"{near.layer}:{near.feature}"


def _ordered(of: Evidence, height: int) -> list[tuple[str, Context]]:
    """All contexts and their groups: those that fit `height` lines, then the others.

    First the strongest, then one or two from each quarter, strongest quarter first.
    """
    named = [(f"{k + 1}/{QUARTERS}", of.quarters[k]) for k in reversed(range(len(of.quarters)))]
    each = 2 if height >= _FEWEST + 2 * QUARTERS + 2 else 1
    examples = [(name, at) for name, quarter in named for at in quarter[:each]]
    others = [(name, at) for name, quarter in named for at in quarter[each:]]
    strongest = [("top", at) for at in of.contexts]
    first = max(_FEWEST, height - len(examples))
    return [*strongest[:first], *examples, *strongest[first:], *others]
