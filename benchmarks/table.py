"""The feature table alone at a million rows: a part of (f), or `python -m benchmarks.table`.

Times are from the key event, as a terminal's driver posts it, to the driver's write, which goes
over SSH; they include Textual's wait for the next frame (a 60th of a second). The table fills the
whole screen, so it is wider than in the app, in true colour.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import numpy as np
import polars as pl
from rich.color import ColorSystem
from textual import events
from textual.app import App, ComposeResult
from textual.drivers.headless_driver import HeadlessDriver

from benchmarks.measure import Row, timed
from benchmarks.terminal import Presses
from benchmarks.workplace import TOKENS, VOCABULARY, vocabulary
from qlens_tui.app.widgets.feature_table import FeatureTable
from qlens_tui.table.rows import SEARCHED, Rows, all_rows, filtered, sorted_by
from qlens_tui.table.sort_key import useful_end_first

ROWS = 1_000_000
LATENCY, BYTES = 50, 1536
"""The budgets of a cursor move: milliseconds (p95), and bytes at 120x40."""


def atlas(rows: int) -> pl.DataFrame:
    """A frame like the atlas of a dictionary of so many features in ten layers."""
    random = np.random.default_rng(0)

    def lists() -> pl.Series:
        ids = random.integers(0, VOCABULARY, (rows, TOKENS), dtype=np.int32)
        return pl.Series(ids).arr.to_list()

    def numbers(low: float, high: float) -> pl.Series:
        return pl.Series(random.uniform(low, high, rows).astype(np.float32))

    layer, feature = np.divmod(np.arange(rows, dtype=np.int32), rows // 10)
    return pl.DataFrame(
        {
            "layer": layer,
            "feature": feature,
            "silent": random.random(rows) < 0.05,
            "density": numbers(0, 0.1),
            **{name: lists() for name in SEARCHED},
            **{f"{side}_gain": numbers(-0.2, 0.6) for side in ("value", "key")},
            **{f"{side}_stability": numbers(0, 1) for side in ("value", "key")},
        }
    )


class TableApp(App[None]):
    """The table and nothing else."""

    def __init__(self, rows: Rows, texts: Sequence[str]) -> None:
        super().__init__()
        self._shown = rows, texts

    def compose(self) -> ComposeResult:
        yield FeatureTable()

    def on_mount(self) -> None:
        table = self.query_one(FeatureTable)
        rows, texts = self._shown
        table.set_texts(texts)
        table.set_rows(rows)
        table.focus()


class Keyboard:
    """Presses keys in an app and measures the time until it has painted."""

    def __init__(self, app: App[None]) -> None:
        self._app = app
        self._painted = asyncio.Event()
        self._at = 0.0
        self._sent = b""

    def write(self, data: str) -> None:
        self._at = time.perf_counter()
        self._sent += data.encode()
        self._painted.set()

    async def press(self, key: str) -> tuple[float, bytes]:
        """Seconds and bytes; a key that paints nothing takes no time and no bytes."""
        self._sent = b""
        self._painted.clear()
        character = key if len(key) == 1 else None
        start = time.perf_counter()
        self._app.post_message(events.Key(key, character))
        try:
            await asyncio.wait_for(self._painted.wait(), 0.5)
        except TimeoutError:
            return 0.0, b""
        await asyncio.sleep(0.02)
        return self._at - start, self._sent

    async def presses(self, *keys: str) -> Presses:
        each = [await self.press(key) for key in keys]
        seconds, sent = zip(*each, strict=True)
        return Presses(seconds, sent)


@asynccontextmanager
async def keyboard(
    rows: Rows, texts: Sequence[str], size: tuple[int, int]
) -> AsyncIterator[tuple[Keyboard, FeatureTable]]:
    """The table in a terminal of that size, in true colour, and a keyboard."""
    app = TableApp(rows, texts)
    keys = Keyboard(app)

    class Recorder(HeadlessDriver):
        @property
        def is_headless(self) -> bool:
            return False

        def write(self, data: str) -> None:
            keys.write(data)

    app.driver_class = Recorder
    app.console._color_system = ColorSystem.TRUECOLOR
    async with app.run_test(headless=False, size=size) as pilot:
        await pilot.pause(0.3)
        yield keys, app.query_one(FeatureTable)


async def measure(rows: int = ROWS) -> list[Row]:
    """What a table of `rows` features costs."""
    texts = vocabulary()
    many = all_rows(atlas(rows))
    async with keyboard(all_rows(many.frame.head(100)), texts, (120, 40)) as (keys, _):
        few = await keys.presses(*"jk" * 100)
    found = []
    async with keyboard(many, texts, (120, 40)) as (keys, table):
        window = table.size.height - 1
        inside = await keys.presses(*"jk" * 100)
        found += _moves(f"table alone, {rows:,} rows, in the window", inside)
        slower = inside.quantile(0.5) / few.quantile(0.5)
        found.append(Row("  against a hundred rows, p50", slower, "x"))
        found += _moves(
            "table alone, j held for four windows", await keys.presses(*"j" * 4 * window)
        )
        turns = await keys.presses(*["ctrl+d"] * 40, *"Gg" * 10)
        found += _moves("table alone, ctrl+d, G and g", turns, None)
        table.set_rows(filtered(many, "a", texts))
        matched = await keys.presses(*"jk" * 100)
        found += _moves("table alone, rows full of what a filter found", matched)
        table.set_rows(many)
        ends = await keys.presses(*"gkkkGjjj")
        sent = sum(ends.sizes[1:4] + ends.sizes[5:])
        found.append(Row("table alone: k on the first row, j on the last", sent, "B", "", 0))
    expression = "density > 0.05 and value_gain > 0.1"
    some = filtered(many, expression)
    gain, silent, token = map(useful_end_first, ("value_gain", "silent", "value_query_ids"))
    word = f"filter by a word in two lists of {TOKENS}"
    ways: dict[str, Callable[[], object]] = {
        f"filter {expression}": lambda: filtered(many, expression),
        word: lambda: filtered(many, "quaquaqua", texts),
        "sort by value_gain": lambda: sorted_by(many, [gain]),
        "sort by silent, then value_gain": lambda: sorted_by(many, [silent, gain]),
        "sort by the first token's text": lambda: sorted_by(many, [token], texts),
        f"follow the cursor to {len(some):,} rows": lambda: some.follow(many, len(many) // 2),
    }
    return [*found, *(Row(f"  {what}", 1000 * timed(way), "ms") for what, way in ways.items())]


def _moves(what: str, presses: Presses, most: int | None = BYTES) -> list[Row]:
    p50, p95 = (1000 * presses.quantile(share) for share in (0.5, 0.95))
    largest = f"at most {max(presses.sizes):,}"
    return [
        Row(f"{what}: key to paint, p50", p50, "ms", f"of {len(presses.sent)}"),
        Row(f"{what}: p95", p95, "ms", "", LATENCY),
        Row(f"{what}: bytes a key, mean", presses.mean_size, "B", largest, most),
    ]


def main() -> None:
    found = asyncio.run(measure(int(sys.argv[1]) if len(sys.argv) > 1 else ROWS))
    print(*found, sep="\n")


if __name__ == "__main__":
    main()
