"""Features by token: ranked by one lens, another beside it, one step from the feature.

A search is worth several features, and going to one closes the list: what was sought and where
the cursor stood outlive the screen (`Sought`), so that the next one opens there again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen

from qlens_tui.app.screens.known import read_labels
from qlens_tui.app.widgets.choice_list import ChoiceList
from qlens_tui.app.widgets.key_line import KeyLine
from qlens_tui.app.widgets.told_line import ToldLine
from qlens_tui.engine import messages as m
from qlens_tui.formats import number
from qlens_tui.text import token_label, visible

if TYPE_CHECKING:
    from qlens_tui.app.screens.workbench import Workbench

_LENSES: tuple[str, ...] = ("query", "logit", "first-order")
_VERBS: dict[m.Side, str] = {"value": "promote", "key": "fire on"}
_HEADINGS: dict[m.Side, str] = {"value": "promotes", "key": "fires on"}
_NO_ATLAS = "(no atlas yet)"


@dataclass(frozen=True)
class Sought:
    """A search as it stands on the screen: the question, and the line under the cursor.

    `layer` is the one that is searched unless `everywhere`; `None`: there is only everywhere.
    """

    token_id: int
    token: str
    layer: int | None
    everywhere: bool
    side: m.Side = "value"
    lens: str = "query"
    cursor: int = 0

    def told(self, *, ascii_only: bool) -> str:
        """The question in words, printable."""
        label = token_label(self.token, ascii_only=ascii_only)
        where = "all layers" if self.layers is None else f"layer {self.layer}"
        return f"{_VERBS[self.side]} {label} ({self.token_id}), {where}, by {self.lens}"

    @property
    def layers(self) -> tuple[int, ...] | None:
        """The layers to search; `None`: all."""
        return None if self.everywhere or self.layer is None else (self.layer,)


class ReverseSearch(ModalScreen[tuple[int, int] | None]):
    """The hits for one token; side, lens and layers are a key each.

    `sought` is what it was opened with, and once it is left what it then showed.
    """

    DEFAULT_CSS = """
    ReverseSearch { align: center middle; background: transparent; }
    ReverseSearch > Vertical {
        width: 95%; max-width: 120; height: 90%; background: $surface;
        border: round $foreground 40%;
    }
    ReverseSearch ChoiceList { height: 1fr; max-height: 100%; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "leave", "Back"),
        Binding("tab", "side", "Value or key side", priority=True),
        Binding("c", "lens", "Lens", tooltip="Next lens to rank by"),
        Binding("a", "layers", "This layer or all"),
    ]

    def __init__(self, workbench: Workbench, sought: Sought) -> None:
        super().__init__()
        self._bench = workbench
        self.sought = sought
        self._hits: tuple[m.Hit, ...] = ()
        self._request = 0

    def compose(self) -> ComposeResult:
        plain = self._bench.ascii
        with Vertical():
            yield ToldLine(ascii_only=plain)
            yield ChoiceList(ascii_only=plain, nothing="searching")
            yield KeyLine(ascii_only=plain)

    def on_mount(self) -> None:
        self.query_one(ChoiceList).focus()
        self.query_one(KeyLine).tell(
            [("enter", "go there"), ("tab", "value/key"), ("c", "lens"), ("a", "one layer/all"),
             ("esc", "back")]
        )  # fmt: skip
        self._search()

    def _search(self) -> None:
        sought, inquiry = self.sought, self._bench.dialogue.inquiry
        words = sought.told(ascii_only=self._bench.ascii)
        self.query_one(ToldLine).tell(f"features that {words}", printable=True)
        self._hits = ()
        question = m.Search(
            token_id=sought.token_id,
            side=sought.side,
            lens=sought.lens,
            layers=sought.layers,
            n=200,
        )
        kept = inquiry.searches.get(question)
        if kept is not None:
            self._request = 0
            self.found(0, kept)
            return
        chosen = self.query_one(ChoiceList)
        chosen.say_nothing("searching")
        chosen.set_choices(())
        if self._bench.dialogue.ready is None:
            self._request = 0
            self.failed("the model is still loading: ask again when it is ready")
            return
        self._request = inquiry.ask(question)

    def found(self, request: int, event: m.Found) -> None:
        """The engine's answer to `request`; one to an older question is not shown."""
        if request != self._request or not self.is_attached:
            return
        self._hits = event.hits
        features = [(hit.layer, hit.feature) for hit in event.hits]
        labels = self._bench.dialogue.labels(features, event.side)
        self._show(labels, cursor=self.sought.cursor, reading=True)
        self.run_worker(self._label_others(event, labels), exclusive=True)

    async def _label_others(
        self, event: m.Found, labels: Mapping[tuple[int, int], tuple[str, ...]]
    ) -> None:
        """Of layers that are not in memory, from their atlases."""
        known = dict(self._bench.browsing.known)
        missing: dict[int, list[int]] = {}
        for hit in event.hits:
            if (hit.layer, hit.feature) not in labels and hit.layer in known:
                missing.setdefault(hit.layer, []).append(hit.feature)
        texts = self._bench.dialogue.texts
        if not missing or texts is None:
            return
        more = await asyncio.to_thread(read_labels, known, missing, texts, event.side)
        if event.hits is self._hits:
            self._show({**labels, **more}, cursor=None)

    def _show(
        self,
        labels: Mapping[tuple[int, int], tuple[str, ...]],
        *,
        cursor: int | None,
        reading: bool = False,
    ) -> None:
        names = [f"{hit.layer}:{hit.feature}" for hit in self._hits]
        width = max([7, *map(len, names)])
        scores = _scores(self.sought.lens, self._hits)
        tokens = [self._tokens(hit, labels, reading=reading) for hit in self._hits]
        heading, *lines = (
            f"{name:>{width}} {' '.join(cells)}  {last}"
            for name, last, *cells in zip(
                ["feature", *names], [_HEADINGS[self.sought.side], *tokens], *scores, strict=True
            )
        )
        chosen = self.query_one(ChoiceList)
        chosen.say_nothing("no features")
        chosen.set_choices(lines, heading=heading, cursor=cursor)
        chosen.styles.height = "1fr"

    def _tokens(
        self, hit: m.Hit, labels: Mapping[tuple[int, int], tuple[str, ...]], *, reading: bool
    ) -> str:
        """The feature's tokens on the side that is searched; `reading`: more are on their way."""
        tokens = labels.get((hit.layer, hit.feature))
        if tokens is not None:
            return " ".join(token_label(token, ascii_only=self._bench.ascii) for token in tokens)
        known = self._bench.browsing.known.get(hit.layer)
        return "" if reading and known is not None and known.atlas is not None else _NO_ATLAS

    def failed(self, text: str, request: int | None = None) -> None:
        """The engine cannot answer what was asked last; `request`, if it says which."""
        if request in (None, self._request) and self.is_attached:
            self.query_one(ChoiceList).say_nothing(visible(text, ascii_only=self._bench.ascii))

    def on_choice_list_taken(self, event: ChoiceList.Taken) -> None:
        event.stop()
        if event.index < len(self._hits):  # not of the hits of a moment ago
            hit = self._hits[event.index]
            self._leave((hit.layer, hit.feature))

    def action_side(self) -> None:
        self._change(side="key" if self.sought.side == "value" else "value")

    def action_lens(self) -> None:
        lens = _LENSES[(_LENSES.index(self.sought.lens) + 1) % len(_LENSES)]
        self._change(lens=lens)

    def action_layers(self) -> None:
        self._change(everywhere=not self.sought.everywhere)

    def action_leave(self) -> None:
        self._leave(None)

    def _leave(self, hit: tuple[int, int] | None) -> None:
        at = self.query_one(ChoiceList).cursor
        if at is not None:
            self.sought = replace(self.sought, cursor=at)
        self.dismiss(hit)

    def _change(self, **question: Any) -> None:
        self.sought = replace(self.sought, cursor=0, **question)
        self._search()


def _scores(lens: str, hits: Sequence[m.Hit]) -> list[list[str]]:
    """The columns of scores under their headings: the ranking lens's, then another's if known."""
    columns = [_column(lens, [hit.score for hit in hits])]
    if lens != "logit":
        columns.append(_column("logit", [hit.logit_score for hit in hits]))
    elif any(hit.query_score is not None for hit in hits):
        columns.append(_column("query", [hit.query_score for hit in hits]))
    ranks = [f"{hit.rank:,}" for hit in hits]
    return [*columns, [f"{cell:>7}" for cell in ("rank", *ranks)]]


def _column(heading: str, scores: Sequence[float | None]) -> list[str]:
    width = max(9, len(heading))
    cells = ("" if score is None else number(score) for score in scores)
    return [f"{cell:>{width}}" for cell in (heading, *cells)]
