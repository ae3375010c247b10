"""Evidence about a feature: where it fires, and its nearest features.

Contexts are aligned at the token that fires, which is in brackets, with the text before and after
it. Below them are the nearest features, to which enter goes, lengths and stability.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message

from lens_core.faces import joined
from qlens_tui.app.views import EvidenceView
from qlens_tui.app.widgets.feature_pane import FeaturePane
from qlens_tui.app.widgets.line_pane import Line, facts, fitted, line, width_of
from qlens_tui.engine.messages import Context, Evidence, Neighbour
from qlens_tui.formats import density, number, tokens_of
from qlens_tui.text import cells, context_label, fit, token_label, wrapped

_BRACKETS = 2
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
        Binding("enter", "open", "Open feature", tooltip="Go to the chosen neighbour")
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
        self._choices: dict[int, Neighbour] = {}

    @property
    def chosen(self) -> Neighbour | None:
        """The neighbour that enter opens, if it is on the screen."""
        return self._choices[self._chosen] if self._chosen in self._on_screen() else None

    def view_changed(self, *, is_other_feature: bool) -> None:
        """For another feature, no neighbour is chosen."""
        if is_other_feature:
            self._chosen = None

    def action_scroll(self, by: int) -> None:
        """Choose the next neighbour on the screen; if there is none, scroll."""
        seen = sorted(self._on_screen())
        if self._chosen in seen:
            seen = [k for k in seen if (k - self._chosen) * by > 0]
        if seen and abs(by) == 1:
            self._chosen = seen[0] if by > 0 else seen[-1]
            self.redraw()
        else:
            super().action_scroll(by)

    def action_open(self) -> None:
        chosen = self.chosen
        if chosen is not None and not self.is_grey:
            self.post_message(self.FeatureChosen(self, chosen.layer, chosen.feature))

    def _on_screen(self) -> set[int]:
        return set(range(self.top, self.top + self.body_height)) & self._choices.keys()

    def lay_out(self, width: int, height: int) -> tuple[Sequence[Line], Sequence[Line]]:
        self._choices = {}
        instead, answer = self.instead(), self.view.shown.answer
        head = [fitted(self._title(width), width, self.ellipsis)]
        if answer is None or instead is not None:
            return head, [fitted(instead or (), width, self.ellipsis)]
        beside = width >= _BESIDE
        explained = self._explanation(width - (_NEIGHBOURS + 1) * beside)
        if not beside:
            body: list[Line] = [*explained, *self._contexts(answer, width)]
            body += [(), *self._nearest(answer, len(body) + 1), (), *self._facts()]
        else:
            left = [*explained, *self._contexts(answer, width - _NEIGHBOURS - 1), ()]
            left += self._facts()
            right = list(self._nearest(answer, 0))
            body = [
                (*fitted(one, width - _NEIGHBOURS - 1, self.ellipsis), (" ", ""), *other)
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
        text = self.printable(tokens_of(of.text))
        if of.silent:
            return (*start, (f"silent in {text}", "pane--waiting"))
        fired = f"{sum(of.histogram):,}"
        pieces = [
            [f"fires on {fired} of {text}", f"on {fired} of {of.n_tokens:,}"],
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

    def _contexts(self, of: Evidence, width: int) -> Iterator[Line]:
        if not of.contexts:
            return
        yield ((" strongest contexts", self.shade("pane--strong")),)
        where = max(len(f"{at.sample}:{at.position}") for at in of.contexts)
        score = max(len(number(at.activation)) for at in of.contexts)
        room = max(0, width - where - score - 4)
        # More text before the token, which can affect the activation.
        before = room * 11 // 20
        for at in of.contexts:
            place = f" {f'{at.sample}:{at.position}':>{where}} {number(at.activation):>{score}}  "
            yield line((place, "pane--quiet"), *self._concordance(at, before, room - before))

    def _concordance(self, at: Context, before: int, after: int) -> Line:
        token = token_label(at.token, ascii_only=self.ascii_only)
        room = max(0, after - _BRACKETS)
        token = fit(token, min(cells(token), room), ellipsis=self.ellipsis)
        rest = fit(self._inner(at.after), room - cells(token), ellipsis="")
        return line(
            (_last(self._inner(at.before), before), self.shade()),
            (f"[{token}]", self.shade("evidence--token")),
            (rest, self.shade()),
        )

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
                self._choices[start] = near
                chosen = start == self._chosen
                tokens = self.view.labels.get((near.layer, near.feature), ())
                labels = "  ".join(token_label(t, ascii_only=self.ascii_only) for t in tokens)
                text = (
                    f"{'>' if chosen else ' '}{_name(near):>{named}}  {near.cosine:+.2f}  {labels}"
                )
                here = "pane--cursor-grey" if self.is_grey else "pane--cursor"
                style = here if chosen and self.has_focus else self.shade()
                yield ((text, style),)
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

    def _inner(self, tokens: Sequence[str]) -> str:
        return context_label(joined(tokens), ascii_only=self.ascii_only)


def _name(near: Neighbour) -> str:
    return f"{near.layer}:{near.feature}"


def _last(text: str, width: int) -> str:
    """The end of the text, in exactly `width` columns."""
    while cells(text) > width:
        text = text[1:]
    return " " * (width - cells(text)) + text
