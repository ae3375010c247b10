"""Features by token: ranked by Query Lens, Logit Lens beside it, one step from the feature."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen

from qlens_tui import messages as m
from qlens_tui.screens.known import read_labels
from qlens_tui.tables import number
from qlens_tui.text import token_label, visible
from qlens_tui.widgets.choice_list import ChoiceList
from qlens_tui.widgets.key_line import KeyLine
from qlens_tui.widgets.told_line import ToldLine

if TYPE_CHECKING:
    from qlens_tui.screens.workbench import Workbench

_LENSES: tuple[m.SearchLens, ...] = ("query", "logit", "first-order")
_VERBS = {"value": "promote", "key": "fire on"}


class ReverseSearch(ModalScreen[tuple[int, int] | None]):
    """The hits for one token; side, lens and layers are a key each."""

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

    def __init__(self, workbench: Workbench, token_id: int, token: str, layer: int | None) -> None:
        super().__init__()
        self._bench = workbench
        self._token_id, self._token, self._layer = token_id, token, layer
        self._side: m.Side = "value"
        self._lens: m.SearchLens = "query"
        self._all = layer is None
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
        layers = None if self._all or self._layer is None else (self._layer,)
        where = "all layers" if layers is None else f"layer {self._layer}"
        label = token_label(self._token, ascii_only=self._bench.ascii)
        self.query_one(ToldLine).tell(
            f"features that {_VERBS[self._side]} {label} ({self._token_id}), {where}, "
            f"by {self._lens}",
            printable=True,
        )
        self._hits = ()
        chosen = self.query_one(ChoiceList)
        chosen.say_nothing("searching")
        chosen.set_choices(())
        self._request = self._bench.dialogue.inquiry.ask(
            m.Search(
                token_id=self._token_id, side=self._side, lens=self._lens, layers=layers, n=200
            )
        )

    def found(self, event: m.Found) -> None:
        """The engine's answer; one to an older question is not shown."""
        if event.id != self._request or not self.is_attached:
            return
        self._hits = event.hits
        labels = self._bench.dialogue.labels([(hit.layer, hit.feature) for hit in event.hits])
        self._show(labels)
        self.run_worker(self._label_others(event.hits, labels), exclusive=True)

    async def _label_others(
        self, hits: Sequence[m.Hit], labels: Mapping[tuple[int, int], tuple[str, ...]]
    ) -> None:
        """Of layers that are not in memory, from their atlases."""
        known = dict(self._bench.browsing.known)
        missing: dict[int, list[int]] = {}
        for hit in hits:
            if (hit.layer, hit.feature) not in labels and hit.layer in known:
                missing.setdefault(hit.layer, []).append(hit.feature)
        texts = self._bench.dialogue.texts
        if not missing or texts is None:
            return
        more = await asyncio.to_thread(read_labels, known, missing, texts)
        if hits is self._hits and more:
            self._show({**labels, **more})

    def _show(self, labels: Mapping[tuple[int, int], tuple[str, ...]]) -> None:
        names = [f"{hit.layer}:{hit.feature}" for hit in self._hits]
        width = max([7, *map(len, names)])
        lines = [
            f"{name:>{width}} {number(hit.score):>9} {number(hit.logit_score):>9}  "
            f"{self._label(labels.get((hit.layer, hit.feature), ()))}"
            for name, hit in zip(names, self._hits, strict=True)
        ]
        chosen = self.query_one(ChoiceList)
        chosen.say_nothing("no features")
        heading = f"{'feature':>{width}} {self._lens[:9]:>9} {'logit':>9}  promotes"
        chosen.set_choices(lines, heading=heading)
        chosen.styles.height = "1fr"

    def _label(self, tokens: Iterable[str]) -> str:
        return " ".join(token_label(token, ascii_only=self._bench.ascii) for token in tokens)

    def failed(self, text: str) -> None:
        """The engine cannot answer."""
        if self.is_attached:
            self.query_one(ChoiceList).say_nothing(visible(text, ascii_only=self._bench.ascii))

    def on_choice_list_taken(self, event: ChoiceList.Taken) -> None:
        event.stop()
        if event.index < len(self._hits):  # not of the hits of a moment ago
            hit = self._hits[event.index]
            self.dismiss((hit.layer, hit.feature))

    def action_side(self) -> None:
        self._side = "key" if self._side == "value" else "value"
        self._search()

    def action_lens(self) -> None:
        self._lens = _LENSES[(_LENSES.index(self._lens) + 1) % len(_LENSES)]
        self._search()

    def action_layers(self) -> None:
        self._all = not self._all
        self._search()

    def action_leave(self) -> None:
        self.dismiss(None)
