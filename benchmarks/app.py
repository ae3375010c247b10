"""(f) The whole app, as a process in a pseudo terminal: keys in, bytes out.

From the start of the process to the first painted status line (a first visit, and one with a saved
position and an atlas); then the app on a layer of a million tabulated features, with made-up
answers (`stand_in`), in both of its shapes: seconds from a key to the first bytes, bytes of a move
with all panes, and memory. `table` measures the table alone.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import psutil

from benchmarks import table
from benchmarks.measure import Report, Row, Times, progress
from benchmarks.terminal import Presses, Terminal, lines_of, terminal
from benchmarks.workplace import Workplace

HELP, PAINT, LATENCY, BYTES, PANES = 0.25, 0.8, 0.050, 1536, 4096
"""Budgets: seconds, seconds, seconds (p95), bytes of a cursor move."""
_NARROW, _WIDE = (120, 40), (160, 48)
"""The table above the panes, and beside them."""
_QUIET = 0.35
"""Seconds without output after which a move is over; paths are asked for after 0.08."""
_SETTLED = 2.0
"""The same after keys that came too fast to paint and queue without output."""
_REPEAT = 30  # keys a second of a key that is held
_STYLE = re.compile(rb"\x1b\[[0-9;]*m")
_MAIN = "from qlens_tui.cli.main import main; main()"
# At exit, writes to the file in the first argument whether torch was imported.
_TELLING = (
    "import pathlib, sys; from qlens_tui.cli.main import main; file = sys.argv.pop(1)\n"
    "try: main()\nfinally: pathlib.Path(file).write_text(repr('torch' in sys.modules))"
)


def run(*, quick: bool) -> Report:
    features, again = (5_000, 1) if quick else (1_000_000, 9)
    said = (
        f"{features:,} features of one layer with every column of an atlas, lists of 25, "
        "vocabulary of 50,257;",
        "processes in a pseudo terminal (80x24 the first paint, 120x40 and 160x48 the rest), files "
        "in the page cache;",
        "the engine's answers are made up (a signature 35 ms after it was asked for), all panes "
        "follow",
    )
    with TemporaryDirectory(prefix="qlens-bench-") as name:
        place = Workplace(Path(name))
        progress("qlens --help and the first paint")
        rows = [*_help(place, again), *_first_paint(place, "a first visit", again)]
        place.visited(place.atlas(8192))
        rows += _first_paint(place, "a later visit, 8,192 rows", again)
        progress(f"an atlas of {features:,} features")
        place.visited(place.atlas(features))
        rows += _whole_app(place, features, 8 if quick else 60)
    progress("the table alone")
    rows += asyncio.run(table.measure(features))
    return Report("(f) the app", said, tuple(rows))


def _help(place: Workplace, again: int) -> list[Row]:
    def once(*options: str) -> tuple[float, str]:
        start = perf_counter()
        done = subprocess.run(
            [sys.executable, *options, "-c", _MAIN, "--help"], check=True, capture_output=True,
            text=True, env=os.environ | dict(place.environment),
        )  # fmt: skip
        return perf_counter() - start, done.stderr

    once()
    times = Times(tuple(once()[0] for _ in range(again)))
    imported = {line.rpartition("|")[2].strip() for line in once("-X", "importtime")[1].split("\n")}
    assert "qlens_tui.cli.main" in imported
    return [
        Row("qlens --help, median", median(times.seconds), "s", times.spread, HELP),
        Row("  torch imported by it (0: no)", float("torch" in imported), "", "", 0),
    ]


def _first_paint(place: Workplace, what: str, again: int) -> list[Row]:
    def once(*command: str) -> float:
        size, environment = (80, 24), place.environment
        with terminal(*command, "open", str(place.config), size=size, environment=environment) as t:
            at = t.until(_status_line)
            if command[1] == _TELLING:
                t.process.send_signal(signal.SIGTERM)
                t.process.wait(30)
            return at

    once("-c", _MAIN)
    times = Times(tuple(once("-c", _MAIN) for _ in range(again)))
    told = place.folder / "torch.txt"
    once("-c", _TELLING, str(told))
    torch = told.read_text("utf-8") == "True"
    return [
        Row(f"first paint, {what}, median", median(times.seconds), "s", times.spread, PAINT),
        Row("  torch imported in its process (0: no)", float(torch), "", "", 0),
    ]


def _status_line(written: bytes) -> bool:
    return b" qlens " in written.partition(b"\x1b[?1049h")[2]


def _whole_app(place: Workplace, features: int, times: int) -> list[Row]:
    report = place.folder / "report.json"
    command = "-m", "benchmarks.stand_in", str(place.config), str(report)
    rows = []
    kinds: tuple[tuple[str, dict[str, str]], ...] = (
        ("true colour", {}), ("256 colours", {"COLORTERM": ""}),
    )  # fmt: skip
    for size, (colours, environment) in product((_NARROW, _WIDE), kinds):
        what = f"{size[0]}x{size[1]}, {colours}"
        progress(f"the whole app, {what}")
        with terminal(*command, size=size, environment={**place.environment, **environment}) as t:
            t.until(lambda written: b"exact on" in written)  # the paths: all has been answered
            t.rests(2.0)
            rows += _moves(t, what, times, in_parts=size == _NARROW)
            if not environment:
                rows += _at_the_edge(t, what)
                resident = psutil.Process(t.process.pid).memory_info().rss
            t.type("q")
            t.process.wait(60)
    found = json.loads(report.read_text("utf-8"))
    return [
        *rows,
        Row(f"memory of the UI process, {features:,} rows", resident / 2**20, "MiB"),
        Row("  at its peak", found["peak"] / 2**20, "MiB"),
        Row("  torch imported in it (0: no)", float(found["torch"]), "", "", 0),
    ]


def _moves(t: Terminal, what: str, times: int, *, in_parts: bool) -> list[Row]:
    """Moves to new features in the middle of the table, then with j held down.

    `in_parts`: with the bytes of each pane, where no two are on one line.
    """
    fresh = t.presses(*"j" * times, quiet=_QUIET)
    held = t.held("j", 2 * times, _REPEAT, _SETTLED)
    return [
        *latencies(f"{what}: key to painted cursor", fresh),
        Row(f"{what}: bytes of a move, all panes, mean", fresh.mean_size, "B", _most(fresh), PANES),
        *(_by_part(t, fresh) if in_parts else ()),
        _in_styles(fresh),
        Row(f"{what}: bytes a key, j held {_REPEAT} a second", held, "B", "", BYTES),
    ]


def _by_part(t: Terminal, presses: Presses) -> list[Row]:
    """The bytes by pane, from the lines on which the panes start."""
    painted = lines_of(t.written)
    lists = min(line for line, text in painted.items() if b" VALUE " in text)
    paths = min(line for line, text in painted.items() if b" PATHS " in text)
    sent = lines_of(b"".join(presses.sent))
    rows = []
    for name, part in (
        ("status line", range(1, 2)),
        ("table", range(2, lists)),
        ("token lists", range(lists, paths)),
        ("paths and evidence", range(paths, _NARROW[1] + 1)),
    ):
        size = sum(len(sent.get(line, b"")) for line in part) / len(presses.sent)
        rows.append(Row(f"    {name}", size, "B"))
    return rows


def _in_styles(presses: Presses) -> Row:
    colours = sum(map(len, _STYLE.findall(b"".join(presses.sent)))) / presses.mean_size
    share = 100 * colours / len(presses.sent)
    return Row("    of all of them, styles and colours", share, "%")


def _at_the_edge(t: Terminal, what: str) -> list[Row]:
    t.press("G", _SETTLED)
    last = t.presses("j", "j", "j", quiet=_QUIET)
    t.press("g", _SETTLED)
    first = t.presses("k", "k", "k", quiet=_QUIET)
    return [
        Row(
            f"{what}: j on the last row, k on the first",
            sum((*last.sizes, *first.sizes)),
            "B",
            "",
            0,
        )
    ]


def latencies(what: str, presses: Presses) -> list[Row]:
    """The median, and the 95th percentile against its budget."""
    p50, p95 = (1000 * presses.quantile(share) for share in (0.5, 0.95))
    number = f"of {len(presses.seconds)}"
    return [
        Row(f"{what}, p50", p50, "ms", number),
        Row(f"{what}, p95", p95, "ms", "", 1000 * LATENCY),
    ]


def _most(presses: Presses) -> str:
    return f"at most {max(presses.sizes):,}"
