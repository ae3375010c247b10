"""What the feature table costs at a million rows: `python benchmarks/table.py`.

Times are from the key event, as a terminal's driver posts it, to the driver's write, which is
what goes over SSH; they include Textual's wait for the next frame (a 60th of a second). The
table has the whole screen to itself, wider than it is in the app.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import psutil
from rich.color import ColorSystem
from textual import events
from textual.app import App, ComposeResult
from textual.drivers.headless_driver import HeadlessDriver

from qlens_tui.rows import SEARCHED, Rows, all_rows, filtered, sorted_by
from qlens_tui.widgets.feature_table import FeatureTable

ROWS, TOKENS, VOCABULARY = 1_000_000, 25, 50_257
LATENCY, BYTES = 0.050, 1536
"""The budgets of a cursor move: seconds (p95), and bytes at 120x40."""
_SYLLABLES = "ka lo mi ser ton ber ing qua zel dor vin ash pre ul".split()  # noqa: SIM905


@dataclass(frozen=True)
class Presses:
    """Key presses of one kind: seconds to the paint, and bytes sent, of each."""

    seconds: tuple[float, ...]
    sizes: tuple[int, ...]

    def quantile(self, share: float) -> float:
        return float(np.quantile(self.seconds, share))


def vocabulary() -> list[str]:
    """As many token strings as GPT-2 has, three in four with a space before them."""
    lengths = (itertools.product(_SYLLABLES, repeat=n) for n in (1, 2, 3, 4, 5))
    words = map("".join, itertools.islice(itertools.chain(*lengths), VOCABULARY))
    return [word if i % 4 == 0 else f" {word}" for i, word in enumerate(words)]


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
    """Presses keys in an app and takes the time until it has painted."""

    def __init__(self, app: App[None]) -> None:
        self._app = app
        self._painted = asyncio.Event()
        self._at = 0.0
        self._sent = 0

    def write(self, data: str) -> None:
        self._at = time.perf_counter()
        self._sent += len(data.encode())
        self._painted.set()

    async def press(self, key: str) -> tuple[float, int]:
        """Seconds and bytes; a key that paints nothing takes no time and no bytes."""
        self._sent = 0
        self._painted.clear()
        character = key if len(key) == 1 else None
        start = time.perf_counter()
        self._app.post_message(events.Key(key, character))
        try:
            await asyncio.wait_for(self._painted.wait(), 0.5)
        except TimeoutError:
            return 0.0, 0
        await asyncio.sleep(0.02)
        return self._at - start, self._sent

    async def presses(self, *keys: str) -> Presses:
        each = [await self.press(key) for key in keys]
        seconds, sizes = zip(*each, strict=True)
        return Presses(seconds, sizes)


@asynccontextmanager
async def keyboard(rows: Rows, texts: Sequence[str], size: tuple[int, int]) -> Any:
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


@contextmanager
def _timed(said: Callable[[str], None], what: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    said(f"  {what:58} {1000 * (time.perf_counter() - start):9.1f} ms")


async def measure(said: Callable[[str], None], rows: int = ROWS) -> None:
    """Print what a table of `rows` features costs."""
    process, texts = psutil.Process(), vocabulary()
    bare = process.memory_info().rss
    many = all_rows(atlas(rows))
    size = many.frame.estimated_size()
    said(f"{rows:,} features, {TOKENS} tokens a list, vocabulary of {len(texts):,}; ")
    said(f"  load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; frame {size / 2**20:.0f} MiB")

    medians = {}
    for shown, name in ((all_rows(many.frame.head(100)), "100"), (many, f"{rows:,}")):
        async with keyboard(shown, texts, (120, 40)) as (keys, table):
            window = table.size.height - 1
            inside = await keys.presses(*"jk" * 100)
            medians[name] = inside.quantile(0.5)
            _moves(said, f"{name} rows, j and k inside the window", inside)
            if name == "100":
                continue
            held = await keys.presses(*"j" * (4 * window))
            _moves(said, f"{name} rows, j held for four windows", held)
            jumps = [n for n, sent in enumerate(held.sizes) if sent > BYTES]
            said(f"  of these {len(held.sizes)} keys {len(jumps)} moved the window")
            turns = await keys.presses(*["ctrl+d"] * 40)
            _moves(said, f"{name} rows, ctrl+d", turns, None)
            _moves(said, f"{name} rows, G and g", await keys.presses(*"Gg" * 10), None)
            ends = await keys.presses(*"gkkkGjjj")
            sent = sum(ends.sizes[1:4] + ends.sizes[5:])
            said(f"  k on the first row, j on the last: {sent} bytes")
        async with keyboard(many, texts, (80, 24)) as (keys, _):
            _moves(said, f"{name} rows at 80x24, j and k", await keys.presses(*"jk" * 40))
    one, other = medians.values()
    said(f"  a million rows against a hundred: {other / one:.2f}x")

    with _timed(said, "filter density > 0.05 and value_gain > 0.1"):
        some = filtered(many, "density > 0.05 and value_gain > 0.1")
    with _timed(said, f"filter by a word, in {len(SEARCHED)} lists of {TOKENS}"):
        found = filtered(many, "quaquaqua", texts)
    with _timed(said, "sort by value_gain"):
        sorted_by(many, "value_gain", descending=True)
    with _timed(said, "sort by the first token's text"):
        sorted_by(many, "value_query_ids", texts=texts)
    with _timed(said, f"follow the cursor to {len(some):,} rows, from {len(many):,}"):
        some.follow(many, len(many) // 2)
    said(f"  found {len(found):,} by the word")
    used = process.memory_info().rss
    said(f"  memory {used / 2**20:.0f} MiB, {bare / 2**20:.0f} MiB before the frame was made")


def _moves(
    said: Callable[[str], None], what: str, presses: Presses, most: int | None = BYTES
) -> None:
    p50, p95 = presses.quantile(0.5), presses.quantile(0.95)
    mean = sum(presses.sizes) / len(presses.sizes)
    said(
        f"  {what:48} p50 {1000 * p50:5.1f} ms  p95 {1000 * p95:5.1f} ms {_verdict(p95, LATENCY)}"
        f"   mean {mean:6,.0f} B {_verdict(mean, most)}  most {max(presses.sizes):,} B"
    )


def _verdict(value: float, budget: float | None) -> str:
    if budget is None:
        return "  "
    return "ok" if value <= budget else "MISSED"


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    # Textual takes `sys.stdout` while an app runs.
    asyncio.run(measure(lambda line: print(line, file=sys.__stdout__, flush=True), rows))


if __name__ == "__main__":
    main()
