"""Features by token: ranked by one lens, with another lens's score; enter goes to a feature.

Going to a feature closes the list, but the search and the cursor are kept (`Sought`), so that the
list can be opened again at the same place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical

from lens_core.lenses import LENSES, LOGIT, QUERY, lens_named
from qlens_tui.app.asked import Asked
from qlens_tui.app.opened import Opened
from qlens_tui.app.requests import Requests
from qlens_tui.app.screens.mark_keys import MarkKeys
from qlens_tui.app.screens.results_screen import KEYS, SIGNS, ActsOnOne, ResultsScreen
from qlens_tui.app.state import State
from qlens_tui.app.views import Feature, Listed
from qlens_tui.app.widgets.choice_list import ChoiceList
from qlens_tui.app.widgets.key_line import KeyLine
from qlens_tui.app.widgets.title_line import TitleLine
from qlens_tui.engine import messages as m
from qlens_tui.formats import number
from qlens_tui.table.feature_labels import Labels, labels, read_labels
from qlens_tui.table.row_reader import RowReader
from qlens_tui.text import cells, fit, token_label, visible

_LENSES = (QUERY.name, *(lens.name for lens in LENSES if lens is not QUERY))
_VERBS: dict[m.Side, str] = {"value": "promote", "key": "fire on"}
_HEADINGS: dict[m.Side, str] = {"value": "promotes", "key": "fires on"}
_OTHER_ORDER: dict[m.By, m.By] = {"rank": "score", "score": "rank"}
_NO_ATLAS = "(no atlas yet)"
_OTHERS = "the model, or its layers, are other ones than when this was asked: search again"
_RANK = 7  # least columns of a rank


@dataclass(frozen=True)
class Sought:
    """A search as shown: the request, and the line under the cursor.

    `tokens` are the texts of the query's tokens, wanted ones first. `layer` is searched unless
    `everywhere`; `None`: only all layers can be searched.
    """

    query: m.TokenQuery
    tokens: tuple[str, ...]
    layer: int | None
    everywhere: bool
    side: m.Side = "value"
    lens: str = QUERY.name
    by: m.By = "rank"
    cursor: int = 0

    def fits(self, opened: Opened) -> bool:
        """Whether it means what it did: not if another model or other layers are open now."""
        texts = opened.texts
        return (
            texts is not None
            and all(
                texts[token : token + 1] == [text]
                for token, text in zip(self.query.ids, self.tokens, strict=True)
            )
            and (self.layer is None or self.layer in opened.choices)
        )

    def labels(self, *, ascii_only: bool) -> list[str]:
        """The tokens, printable; those that are not wanted with a minus."""
        shown = (token_label(token, ascii_only=ascii_only) for token in self.tokens)
        n_wanted = len(self.query.wanted)
        return [f"{'-' * (at >= n_wanted)}{label}" for at, label in enumerate(shown)]

    def in_words(self, *, ascii_only: bool) -> str:
        """The search in words, printable."""
        tokens = ", ".join(
            f"{label} ({token})"
            for label, token in zip(self.labels(ascii_only=ascii_only), self.query.ids, strict=True)
        )
        where = "all layers" if self.layers is None else f"layer {self.layer}"
        return f"{_VERBS[self.side]} {tokens}, {where}, {self.lens} by {self.by}"

    @property
    def summary(self) -> str:
        """The search in a few words, raw."""
        n_wanted = len(self.query.wanted)
        tokens = (
            f"{'-' * (at >= n_wanted)}{token.strip(' ') or token}"
            for at, token in enumerate(self.tokens)
        )
        return f"what {_HEADINGS[self.side]} {', '.join(tokens)}"

    @property
    def layers(self) -> tuple[int, ...] | None:
        """The layers to search; `None`: all."""
        return None if self.everywhere or self.layer is None else (self.layer,)

    @property
    def question(self) -> m.Search:
        """The request to the engine."""
        return m.Search(
            query=self.query, side=self.side, lens=self.lens, layers=self.layers, n=200, by=self.by
        )


class ReverseSearch(ResultsScreen):
    """The hits for some tokens; one key each changes side, lens, layers and order.

    `sought` is the search that it shows, also after it was closed.
    """

    DEFAULT_CSS = """
    ReverseSearch > Vertical {
        width: 95%; max-width: 120; height: 90%; background: $surface;
        border: round $border-blurred;
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "leave", "Back"),
        Binding("tab", "side", "Value or key side", priority=True),
        Binding("o", "order", "By rank or by score"),
        Binding("c", "lens", "Lens", tooltip="Next lens to rank by"),
        Binding("a", "layers", "This layer or all"),
        *KEYS,
    ]

    def __init__(
        self,
        sought: Sought,
        state: State,
        requests: Requests,
        reader: RowReader,
        mark_keys: MarkKeys,
        acts: ActsOnOne,
        *,
        ascii_only: bool,
    ) -> None:
        super().__init__()
        self.sought = sought
        self.mark_keys = mark_keys
        self.acts = acts
        self._answers = state
        # Until the model's own vocabulary is there, the token ids may be another one's.
        self._asked = Asked(state, requests, may_send=lambda: state.opened.has_own_texts)
        self._reader = reader
        self._ascii = ascii_only
        self._drawn: m.Found | None = None
        self._named: Mapping[Feature, tuple[str, ...]] = {}
        self._reading = False

    @property
    def hits(self) -> tuple[m.Hit, ...]:
        """The hits that are listed."""
        return () if self._drawn is None else self._drawn.hits

    def listed(self) -> Listed:
        return Listed(self.sought.summary, tuple((hit.layer, hit.feature) for hit in self.hits))

    def compose(self) -> ComposeResult:
        plain = self._ascii
        with Vertical():
            yield TitleLine(ascii_only=plain)
            yield ChoiceList(ascii_only=plain, nothing="searching")
            yield KeyLine(ascii_only=plain)

    def on_mount(self) -> None:
        self.query_one(ChoiceList).focus()
        self._search()

    def _search(self) -> None:
        words = self.sought.in_words(ascii_only=self._ascii)
        self.query_one(TitleLine).tell(f"features that {words}", printable=True)
        self.query_one(KeyLine).tell(
            [("enter", "go there"), ("tab", "value/key"),
             ("o", f"by {_OTHER_ORDER[self.sought.by]}"), ("c", "lens"), ("a", "one layer/all"),
             ("T", "as table"), ("s x t L m", "mark"), ("J K A", "select"), ("esc", "back")]
        )  # fmt: skip
        self._drawn = None
        self._asked.put(self.sought.question)
        self.answered()

    def answered(self) -> None:
        """List the hits, or why there are none."""
        if not self.is_attached or self._drawn is not None:
            return
        if not self.sought.fits(self._answers.opened):
            self._list(_OTHERS, ())
            return
        self._asked.follow()
        found = self._asked.answer
        if not isinstance(found, m.Found):
            problem = self._asked.problem
            if problem and lens_named(self.sought.lens).needs_operators:
                problem += " (here: c)"
            doing = problem or self._asked.doing("searching")
            self._list(visible(doing, ascii_only=self._ascii), ())
            return
        self._drawn = found
        opened = self._answers.opened
        frames = self._reader.frames(opened.known)
        self._named = labels(self.listed().features, frames, opened.texts, found.side)
        self._reading = True
        self._show(cursor=self.sought.cursor)
        self.run_worker(self._label_others(found, self._named), exclusive=True)

    def marks_changed(self) -> None:
        if self.is_attached and self.hits:
            self._show(cursor=None)

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
            self._named, self._reading = {**named, **more}, False
            self._show(cursor=None)

    def _show(self, *, cursor: int | None) -> None:
        features = self.listed().features
        names = [f"{layer}:{feature}" for layer, feature in features]
        width = max([7, *map(len, names)])
        columns = zip(
            ["feature", *names],
            [" " * SIGNS, *self.signs(features)],
            *_columns(self.sought, self.hits, ascii_only=self._ascii),
            [_HEADINGS[self.sought.side], *map(self._tokens, self.hits)],
            strict=True,
        )
        heading, *lines = (
            f"{name:>{width}} {signs}{' '.join(numbers)}  {last}"
            for name, signs, *numbers, last in columns
        )
        self._list("no features", lines, heading=heading, cursor=cursor)

    def _list(self, nothing: str, lines: Sequence[str], **how: Any) -> None:
        chosen = self.query_one(ChoiceList)
        chosen.say_nothing(nothing)
        chosen.set_choices(lines, **how)
        chosen.styles.height = "1fr"  # so that the keys stay at the bottom

    def _tokens(self, hit: m.Hit) -> str:
        """The feature's tokens on the searched side."""
        tokens = self._named.get((hit.layer, hit.feature))
        if tokens is not None:
            return " ".join(token_label(token, ascii_only=self._ascii) for token in tokens)
        known = self._answers.opened.known.get(hit.layer)
        waits = self._reading and known is not None and known.atlas is not None
        return "" if waits else _NO_ATLAS

    def leave(self, found: Feature | Listed | None) -> None:
        at = self.query_one(ChoiceList).cursor
        if at is not None:
            self.sought = replace(self.sought, cursor=at)
        super().leave(found)

    def action_side(self) -> None:
        self._change(side="key" if self.sought.side == "value" else "value")

    def action_order(self) -> None:
        self._change(by=_OTHER_ORDER[self.sought.by])

    def action_lens(self) -> None:
        lens = _LENSES[(_LENSES.index(self.sought.lens) + 1) % len(_LENSES)]
        self._change(lens=lens)

    def action_layers(self) -> None:
        self._change(everywhere=not self.sought.everywhere)

    def _change(self, **question: Any) -> None:
        self.sought = replace(self.sought, cursor=0, **question)
        self._search()


def _columns(sought: Sought, hits: Sequence[m.Hit], *, ascii_only: bool) -> Iterator[list[str]]:
    """Columns by heading: the rank, of several tokens also each one's; the lens's score, another's.

    The first is what the hits are ordered by.
    """
    ranks = [_column("rank", [f"{hit.rank:,}" for hit in hits], _RANK)]
    if len(sought.tokens) > 1:
        ellipsis = "..." if ascii_only else "…"
        for at, label in enumerate(sought.labels(ascii_only=ascii_only)):
            heading = fit(label, min(_RANK, cells(label)), ellipsis=ellipsis)
            ranks.append(_column(heading, [f"{hit.ranks[at]:,}" for hit in hits], _RANK))
    scores = [_score_column(sought.lens, [hit.score for hit in hits])]
    if sought.lens != LOGIT.name:
        scores.append(_score_column(LOGIT.name, [hit.logit_score for hit in hits]))
    elif any(hit.query_score is not None for hit in hits):
        scores.append(_score_column(QUERY.name, [hit.query_score for hit in hits]))
    yield from (*ranks, *scores) if sought.by == "rank" else (*scores, *ranks)


def _score_column(heading: str, scores: Sequence[float | None]) -> list[str]:
    return _column(heading, ["" if score is None else number(score) for score in scores], 9)


def _column(heading: str, texts: Sequence[str], width: int) -> list[str]:
    room = max(width, cells(heading))
    return [" " * (room - cells(text)) + text for text in (heading, *texts)]
