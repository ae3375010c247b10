"""Features by token: ranked by one lens, with another lens's score; enter goes to a feature.

Going to a feature closes the list, but the search and the cursor are kept (`Sought`), so that the
list can be opened again at the same place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical

from lens_core.lenses import LENSES, LOGIT, QUERY, lens_named
from qlens_tui.app.requests import Requests
from qlens_tui.app.screens.answer_screen import AnswerScreen
from qlens_tui.app.state import State
from qlens_tui.app.views import Feature
from qlens_tui.app.widgets.choice_list import ChoiceList
from qlens_tui.app.widgets.key_line import KeyLine
from qlens_tui.app.widgets.text_line import TextLine
from qlens_tui.engine import messages as m
from qlens_tui.formats import number
from qlens_tui.table.feature_labels import Labels, labels, read_labels
from qlens_tui.table.row_reader import RowReader
from qlens_tui.text import token_label, visible

_LENSES = (QUERY.name, *(lens.name for lens in LENSES if lens is not QUERY))
_VERBS: dict[m.Side, str] = {"value": "promote", "key": "fire on"}
_HEADINGS: dict[m.Side, str] = {"value": "promotes", "key": "fires on"}
_NO_ATLAS = "(no atlas yet)"
_LOADING = "the model is still loading: search again when it is ready"


@dataclass(frozen=True)
class Sought:
    """A search as shown: the request, and the line under the cursor.

    `layer` is searched unless `everywhere`; `None`: only all layers can be searched.
    """

    token_id: int
    token: str
    layer: int | None
    everywhere: bool
    side: m.Side = "value"
    lens: str = QUERY.name
    cursor: int = 0

    def in_words(self, *, ascii_only: bool) -> str:
        """The search in words, printable."""
        label = token_label(self.token, ascii_only=ascii_only)
        where = "all layers" if self.layers is None else f"layer {self.layer}"
        return f"{_VERBS[self.side]} {label} ({self.token_id}), {where}, by {self.lens}"

    @property
    def layers(self) -> tuple[int, ...] | None:
        """The layers to search; `None`: all."""
        return None if self.everywhere or self.layer is None else (self.layer,)

    @property
    def question(self) -> m.Search:
        """The request to the engine."""
        return m.Search(
            token_id=self.token_id, side=self.side, lens=self.lens, layers=self.layers, n=200
        )


class ReverseSearch(AnswerScreen[Feature | None]):
    """The hits for one token; one key each changes side, lens and layers.

    `sought` is the search that it shows, also after it was closed.
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

    def __init__(
        self,
        sought: Sought,
        state: State,
        requests: Requests,
        reader: RowReader,
        *,
        ascii_only: bool,
    ) -> None:
        super().__init__()
        self.sought = sought
        self._answers = state
        self._requests = requests
        self._reader = reader
        self._ascii = ascii_only
        self._drawn: m.Found | None = None

    @property
    def hits(self) -> tuple[m.Hit, ...]:
        """The hits that are listed."""
        return () if self._drawn is None else self._drawn.hits

    def compose(self) -> ComposeResult:
        plain = self._ascii
        with Vertical():
            yield TextLine(ascii_only=plain)
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
        words = self.sought.in_words(ascii_only=self._ascii)
        self.query_one(TextLine).tell(f"features that {words}", printable=True)
        question, self._drawn = self.sought.question, None
        if self._answers.answer(question) is None and not self._requests.ask(question):
            self._answers.refuse(question, _LOADING)
        self.answered()

    def answered(self) -> None:
        """List the hits, or why there are none."""
        if not self.is_attached or self._drawn is not None:
            return
        found = self._answers.answer(self.sought.question)
        if not isinstance(found, m.Found):
            problem = self._answers.problem(self.sought.question)
            if problem and lens_named(self.sought.lens).needs_operators:
                problem += " (here: c)"
            self._list(visible(problem, ascii_only=self._ascii) or "searching", ())
            return
        self._drawn = found
        opened = self._answers.opened
        features = [(hit.layer, hit.feature) for hit in found.hits]
        frames = self._reader.frames(opened.known)
        named = labels(features, frames, opened.texts, found.side)
        self._show(named, cursor=self.sought.cursor, reading=True)
        self.run_worker(self._label_others(found, named), exclusive=True)

    async def _label_others(self, found: m.Found, named: Labels) -> None:
        """Read labels for layers that are not in memory, from their atlases."""
        opened = self._answers.opened
        known, texts = dict(opened.known), opened.texts
        missing: dict[int, list[int]] = {}
        for hit in found.hits:
            if (hit.layer, hit.feature) not in named and hit.layer in known:
                missing.setdefault(hit.layer, []).append(hit.feature)
        if not missing or texts is None:
            return
        more = await asyncio.to_thread(read_labels, known, missing, texts, found.side)
        if found is self._drawn:
            self._show({**named, **more}, cursor=None)

    def _show(
        self,
        named: Mapping[Feature, tuple[str, ...]],
        *,
        cursor: int | None,
        reading: bool = False,
    ) -> None:
        names = [f"{hit.layer}:{hit.feature}" for hit in self.hits]
        width = max([7, *map(len, names)])
        scores = _scores(self.sought.lens, self.hits)
        tokens = [self._tokens(hit, named, reading=reading) for hit in self.hits]
        heading, *lines = (
            f"{name:>{width}} {' '.join(cells)}  {last}"
            for name, last, *cells in zip(
                ["feature", *names], [_HEADINGS[self.sought.side], *tokens], *scores, strict=True
            )
        )
        self._list("no features", lines, heading=heading, cursor=cursor)

    def _list(self, nothing: str, lines: Sequence[str], **how: Any) -> None:
        chosen = self.query_one(ChoiceList)
        chosen.say_nothing(nothing)
        chosen.set_choices(lines, **how)
        chosen.styles.height = "1fr"  # so that the keys stay at the bottom

    def _tokens(
        self, hit: m.Hit, named: Mapping[Feature, tuple[str, ...]], *, reading: bool
    ) -> str:
        """The feature's tokens on the searched side; `reading`: labels are still being read."""
        tokens = named.get((hit.layer, hit.feature))
        if tokens is not None:
            return " ".join(token_label(token, ascii_only=self._ascii) for token in tokens)
        known = self._answers.opened.known.get(hit.layer)
        return "" if reading and known is not None and known.atlas is not None else _NO_ATLAS

    def on_choice_list_taken(self, event: ChoiceList.Taken) -> None:
        event.stop()
        if event.index < len(self.hits):  # not of the previous hits
            hit = self.hits[event.index]
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

    def _leave(self, hit: Feature | None) -> None:
        at = self.query_one(ChoiceList).cursor
        if at is not None:
            self.sought = replace(self.sought, cursor=at)
        self.dismiss(hit)

    def _change(self, **question: Any) -> None:
        self.sought = replace(self.sought, cursor=0, **question)
        self._search()


def _scores(lens: str, hits: Sequence[m.Hit]) -> list[list[str]]:
    """The columns of scores by heading: the ranking lens's, then another's if known."""
    columns = [_column(lens, [hit.score for hit in hits])]
    if lens != LOGIT.name:
        columns.append(_column(LOGIT.name, [hit.logit_score for hit in hits]))
    elif any(hit.query_score is not None for hit in hits):
        columns.append(_column(QUERY.name, [hit.query_score for hit in hits]))
    ranks = [f"{hit.rank:,}" for hit in hits]
    return [*columns, [f"{cell:>7}" for cell in ("rank", *ranks)]]


def _column(heading: str, scores: Sequence[float | None]) -> list[str]:
    width = max(9, len(heading))
    cells = ("" if score is None else number(score) for score in scores)
    return [f"{cell:>{width}}" for cell in (heading, *cells)]
