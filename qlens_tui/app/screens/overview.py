"""The overview: what the dictionary looks like layer by layer, from the files on disk.

One line per layer: how many features are silent, how many are marked, and the distributions of
its metrics. The bins are the same in all layers; each layer is scaled to its fullest bin. The
metric and the layer under the cursor are drawn large below. Layers are read one after another
while the screen is open, and again when their atlas is finished.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from textual import events, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen

from lens_core.errors import LensError
from qlens_tui.app.opened import Opened
from qlens_tui.app.widgets.choice_list import ChoiceList
from qlens_tui.app.widgets.key_line import KeyLine
from qlens_tui.app.widgets.line_pane import Line, LinePane, facts, fitted, line
from qlens_tui.app.widgets.text_line import TextLine
from qlens_tui.table.known_layer import KnownLayer
from qlens_tui.table.overview import (
    BINS,
    METRICS,
    Metric,
    Overview,
    Spread,
    marked_in,
    overview_of,
    together,
)
from qlens_tui.text import visible
from qlens_tui.triage.triage import Triage

_COUNTS = (("features", 8), ("silent", 6), ("stars", 6), ("rejects", 7), ("tagged", 6))
_MEDIAN = 5  # columns
_COLUMN = _MEDIAN + 1 + BINS
_LEFT = 5 + sum(width + 1 for _, width in _COUNTS)
_EIGHTHS = " ▁▂▃▄▅▆▇█", " ..::||##"
_LOOK_AGAIN = 1.0  # seconds between checks for new layers and atlases


class _Histogram(LinePane, can_focus=False):
    """One distribution, as tall as there is room: a title, bars, counts, the bins' edges."""

    def __init__(self, *, ascii_only: bool) -> None:
        super().__init__(ascii_only=ascii_only)
        self._facts: Sequence[Sequence[str]] = ()
        self._spread: Spread | None = None

    def tell(self, spread: Spread | None, *pieces: Sequence[str]) -> None:
        self._spread, self._facts = spread, pieces
        self.redraw()

    def lay_out(self, width: int, height: int) -> tuple[Sequence[Line], Sequence[Line]]:
        title = line((f" {facts(self._facts, width - 1)}", "pane--title"))
        if self._spread is None:
            return [fitted(title, width, self.ellipsis)], []
        bins, metric = self._spread.bins, self._spread.metric
        # The last edge is after the last bin.
        each, rows = min((width - 8) // BINS, 14), height - 3
        eighths = [_level(count, max(bins), 8 * rows) for count in bins]
        glyphs = _EIGHTHS[self.ascii_only]

        def row(cells: Sequence[str], style: str = "") -> Line:
            return fitted(line((f" {''.join(cells).rstrip()}", style)), width, self.ellipsis)

        bars = [
            row([glyphs[max(0, min(up - 8 * above, 8))] * (each - 1) + " " for up in eighths])
            for above in reversed(range(rows))
        ]
        counts = row([f"{_short(count, each - 1):<{each}}" for count in bins])
        edges = [_edge(metric, metric.at(index / BINS)) for index in range(BINS + 1)]
        scale = row([f"{edge:<{each}}" for edge in edges], "pane--quiet")
        return [fitted(title, width, self.ellipsis), *bars, counts, scale], []


class OverviewScreen(Screen[int | None]):
    """A line for all layers and one per layer; enter opens one, left and right choose a metric."""

    # No borders, not transparent: with --ascii every character is ASCII.
    DEFAULT_CSS = """
    OverviewScreen { layout: vertical; }
    OverviewScreen ChoiceList { height: 1fr; max-height: 100%; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,v,q", "leave", "Back"),
        Binding("left,h", "metric(-1)", "Previous metric"),
        Binding("right,l", "metric(1)", "Next metric"),
    ]

    def __init__(
        self, opened: Opened, layer: int | None, triage: Triage | None, *, ascii_only: bool
    ) -> None:
        """Start with the cursor on `layer` (`None`: all layers)."""
        super().__init__()
        self._opened = opened
        self._triage = triage
        self._ascii = ascii_only
        self._read: dict[int, tuple[KnownLayer, Overview]] = {}
        self._reading = False
        self._refused = False
        self._at = layer
        self._metric = 0
        self._sum = Overview(0)
        self.rows: tuple[int | None, ...] = ()

    @property
    def _known(self) -> Mapping[int, KnownLayer]:
        """The layers whose dictionary is known now."""
        return self._opened.known

    def compose(self) -> ComposeResult:
        plain = self._ascii
        yield TextLine(ascii_only=plain)
        yield ChoiceList(ascii_only=plain, nothing="no layer is known yet")
        yield _Histogram(ascii_only=plain)
        yield KeyLine(ascii_only=plain)

    def on_mount(self) -> None:
        self.query_one(KeyLine).tell(
            [("enter", "go there"), ("left right", "metric"), ("j k", "layer"), ("esc", "back")]
        )
        self.query_one(ChoiceList).focus()
        self._read_layers()
        self.set_interval(_LOOK_AGAIN, self._look_again)

    def on_resize(self, event: events.Resize) -> None:
        self._show()

    def on_choice_list_moved(self, event: ChoiceList.Moved) -> None:
        event.stop()
        self._at = self.rows[event.index]
        self._draw()

    def on_choice_list_taken(self, event: ChoiceList.Taken) -> None:
        event.stop()
        self.dismiss(event.index)

    def action_metric(self, by: int) -> None:
        self._metric = max(0, min(self._metric + by, len(METRICS) - 1))
        self._show()

    def action_leave(self) -> None:
        self.dismiss(None)

    # Reading.

    def _unread(self) -> list[int]:
        """Layers that changed since they were read."""
        known = self._known
        here = [at for at in self._opened.choices if at is not None and at in known]
        return [at for at in here if self._read.get(at, (None,))[0] != known[at]]

    def _look_again(self) -> None:
        if not self._reading and self._unread():
            self._read_layers()

    @work(exclusive=True, group="overview", thread=False)
    async def _read_layers(self) -> None:
        """Read one layer after another, off the UI thread; closing the screen ends it."""
        self._reading = True
        try:
            while unread := self._unread():
                known = self._known[unread[0]]
                found = await asyncio.to_thread(overview_of, known)
                found = await self._with_marks(known, found)
                again = known.layer in self._read
                self._read[known.layer] = known, found
                self._sum = self._added_up() if again else self._sum + found
                self._show()
        finally:
            self._reading = False
        self._show()

    async def _with_marks(self, known: KnownLayer, found: Overview) -> Overview:
        triage = self._triage
        if triage is None:
            return found
        try:
            return found + Overview(0, await asyncio.to_thread(marked_in, triage, known))
        except LensError as error:
            if not self._refused:
                self.notify(str(error), severity="error")
            self._refused = True
            return found

    def _added_up(self) -> Overview:
        return together(found for _, found in self._read.values())

    # Showing.

    def _show(self) -> None:
        if not self.is_attached or not self.query(ChoiceList):
            return
        self.rows = tuple(self._opened.choices)
        layers = [layer for layer in self.rows if layer is not None]
        if self._at not in self.rows:
            self._at = self.rows[0] if self.rows else None
        for gone in self._read.keys() - set(layers):
            del self._read[gone]
            self._sum = self._added_up()
        metrics = self._metrics_shown()
        chosen = self.query_one(ChoiceList)
        chosen.set_choices(
            [self._line(layer, metrics) for layer in self.rows],
            heading=self._heading(metrics) if self.rows else "",
            cursor=self.rows.index(self._at) if self.rows else 0,
        )
        chosen.styles.height = "1fr"
        unread, whole = self._unread(), self._numbers(None)
        bare = sum(found.measured is None for _, found in self._read.values())
        pieces = [
            "overview by medians",
            f"{len(layers)} layer{'' if len(layers) == 1 else 's'}",
            f"{whole.features:,} features",
            *([f"{len(unread)} layers to read"] if unread else []),
            *([f"{bare} without an atlas"] if bare else []),
            *([_progress(whole)] if whole.marked is not None else []),
        ]
        title = facts([[piece] for piece in pieces], self.size.width - 1)
        self.query_one(TextLine).tell(title)
        self._draw()

    def _draw(self) -> None:
        """Draw the metric and the layer under the cursor large."""
        drawn = self.query_one(_Histogram)
        drawn.display = bool(self.rows)
        if not self.rows:
            return
        spare = self.size.height - 3 - len(self.rows)
        drawn.styles.height = max(6, min(spare, 13))
        metric, here = METRICS[self._metric], self._at
        where = "all layers" if here is None else f"layer {here}"
        numbers = self._numbers(here)
        name = []
        if here is not None and here in self._known:
            name = [[visible(self._known[here].name, ascii_only=self._ascii)]]
        if numbers.measured is None:
            drawn.tell(None, [f"{metric.title} of {where}: {self._missing(here)}"], *name)
            return
        spread = numbers.measured.spreads[self._metric]
        drawn.tell(
            spread,
            [f"{metric.title} of {where}"],
            *([[f"median {_value(metric, spread.median)}"]] if spread.count else []),
            [f"{spread.count:,} of {numbers.features:,} features have one"],
            *name,
        )

    def _numbers(self, layer: int | None) -> Overview:
        """The numbers read so far for a layer, or for all of them."""
        known = self._known
        if layer is None:
            return replace(self._sum, features=sum(each.n_features for each in known.values()))
        if layer in self._read:
            return self._read[layer][1]
        return Overview(known[layer].n_features if layer in known else 0)

    def _missing(self, layer: int | None) -> str:
        """Why there are no metrics."""
        if layer is not None and layer not in self._known:
            return "not loaded yet"
        reading = self._unread() if layer is None else layer in self._unread()
        return "reading" if reading else "no atlas yet"

    def _metrics_shown(self) -> range:
        """The metrics that fit, from the first on if the chosen one is among them."""
        # Two cells are for the list's cursor.
        count = max(1, min((self.size.width - 2 - _LEFT) // (_COLUMN + 1), len(METRICS)))
        first = max(0, self._metric - count + 1)
        return range(first, first + count)

    def _heading(self, metrics: range) -> str:
        names = " ".join(["layer", *(f"{name:>{width}}" for name, width in _COUNTS)])
        titles = [
            f"{'>' if index == self._metric else ' '}{METRICS[index].title:<{_COLUMN}}"
            for index in metrics
        ]
        return "".join([names, *titles]).rstrip()

    def _line(self, layer: int | None, metrics: range) -> str:
        numbers = self._numbers(layer)
        marked, measured = numbers.marked, numbers.measured
        known = layer is None or layer in self._known
        counts = (
            numbers.features if known else None,
            measured.silent if measured is not None else None,
            *((marked.starred, marked.rejected, marked.tagged) if marked else (None,) * 3),
        )
        words = [f"{'all' if layer is None else layer:>5}"] + [
            f"{_short(count, width) if count is not None else '':>{width}}"
            for count, (_, width) in zip(counts, _COUNTS, strict=True)
        ]
        if measured is None:
            return " ".join([*words, self._missing(layer)])
        for index in metrics:
            spread = measured.spreads[index]
            median = _value(spread.metric, spread.median)
            words.append(f"{median:>{_MEDIAN}} {_small(spread.bins, self._ascii)}")
        return " ".join(words)


def _level(count: int, most: int, levels: int) -> int:
    """The height of a bar, at least the smallest visible one for a single feature."""
    return -(-count * levels // most) if most else 0


def _small(bins: Sequence[int], ascii_only: bool) -> str:
    """One cell per bin: a block, a dot if empty; in ASCII a digit, 9 for the fullest."""
    if ascii_only:
        return "".join(str(_level(count, max(bins), 9)) for count in bins)
    return "".join(_EIGHTHS[0][_level(count, max(bins), 8)] if count else "·" for count in bins)


def _value(metric: Metric, value: float | None) -> str:
    """A median, in five columns."""
    if value is None:
        return ""
    if metric.kind == "difference":
        return f"{round(value, 2) + 0.0:+.2f}"
    if metric.kind == "share":
        return f"{value:.2f}"
    percent = 100 * value
    if percent < 0.01:
        return "<.01%"
    return f"{percent:.{2 if percent < 9.995 else 1 if percent < 99.95 else 0}f}%"


def _edge(metric: Metric, value: float) -> str:
    if metric.kind == "difference":
        return f"{round(value, 1) + 0.0:+.1f}"
    if metric.kind == "share":
        return f"{value:.1f}"
    return f"{100 * value:.2g}%".removeprefix("0").replace("1e+02", "100")


def _short(count: int, width: int) -> str:
    """A count in at most `width` columns: exact, or in thousands or millions."""
    for divisor, unit in ((1, ""), (1_000, "k"), (1_000_000, "M")):
        text = f"{count // divisor}{unit}"
        if len(text) <= width:
            return text
    return text


def _progress(whole: Overview) -> str:
    marked = whole.marked.marked if whole.marked is not None else 0
    percent = 100 * marked / max(1, whole.features)
    share = "<0.1%" if 0 < percent < 0.05 else f"{percent:.1f}%"
    return f"{marked:,} marked ({share})"
