"""(switches) Switching blocks off, and paths, against one forward of the residual stream.

On the demo, layer 10, from a recording of the reference that is made on the way. "First" is the
stage over the first eighth of the reference, "last" the one over all of it, both from the key
press. Each feature and mask is new, so that nothing is answered from the result cache; what a
switch answers are both lists of the feature, with Query Lens, Logit Lens and first order.
"""

from __future__ import annotations

import math
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator

import psutil
import torch

from benchmarks.measure import Report, Row, Times, peak_memory, progress, timed
from lens_core.config import load_config, with_overrides
from lens_core.model import ResidualModel
from lens_core.recording import stages
from lens_core.report import paths, signature
from lens_core.session import Session, open_session
from lens_core.terms import SIDES, Settings, Side

_LAYER, _FEATURES = 10, range(400, 460)
_SAMPLES_AT_ONCE = 8


def run(*, quick: bool) -> Report:
    # Of its own: nothing may come from the result cache.
    with tempfile.TemporaryDirectory() as folder:
        os.environ["QLENS_CACHE_DIR"] = folder
        return _measured(quick=quick)


def _measured(*, quick: bool) -> Report:
    session = open_session(with_overrides(load_config("demo"), device="auto"), offline=True)
    rounds = 2 if quick else 12
    features = iter(_FEATURES)
    session.lens.prepare()  # as the app does when it opens
    session.lens.dictionary(_LAYER)
    progress("forward passes")
    tokens = session.reference.tokens.to(session.model.device)
    _forward(session.model, tokens)
    forward = Times(tuple(timed(lambda: _forward(session.model, tokens)) for _ in range(3)))
    unit = forward.smallest
    rows = [Row("one forward (F)", 1000 * unit, "ms", forward.spread)]

    progress("first paths")
    before = psutil.Process().memory_info().rss
    first, last = _both_sides(session, next(features))
    rows.append(
        Row("paths of both sides, nothing recorded: first shares", first / unit, "F", "", 0.5)
    )
    rows.append(Row("paths of both sides, nothing recorded: all", last / unit, "F", "", 6))
    next_paths = [_both_sides(session, next(features)) for _ in range(rounds)]
    rows.append(
        _p95("paths of the next feature: first shares", [a for a, _ in next_paths], unit, 0.5)
    )
    rows.append(_median("paths of the next feature: all", [b for _, b in next_paths], unit, 1.2))
    for side in SIDES:
        progress(f"switches of the {side} side")
        took = [each for _ in range(2) for each in _switches(session, side, next(features), rounds)]
        rows.append(_p95(f"switch, {side} side: first list", [a for a, _ in took], unit, 0.17))
        rows.append(_p95(f"switch, {side} side: last list", [b for _, b in took], unit, 1.3))
    counted = session.lens.carrier.recording.kept_bytes
    grown = psutil.Process().memory_info().rss - before
    rows.append(Row("memory of the recording, counted", counted / 2**30, "GiB", "", 6))
    rows.append(Row("memory of this process since, against that", grown / counted, "x", "", 1.2))
    at = _shown(stages(session.reference, session.model.d_model))
    said = (
        f"{session.reference.n_tokens:,} tokens, stages of {at}",
        f"p95 of {2 * rounds} switches a side, of two features, each of one block more or less",
    )
    return Report("(switches) blocks switched off", said, (*rows, peak_memory()))


def _forward(model: ResidualModel, tokens: torch.Tensor) -> None:
    with torch.no_grad():
        for batch in tokens.split(_SAMPLES_AT_ONCE):
            model.sites(batch)


def _stages(session: Session, ask: Callable[[int], object]) -> tuple[float, float]:
    """Seconds until the first and the last stage."""
    start = time.perf_counter()
    took = []
    for tokens in stages(session.reference, session.model.d_model):
        ask(tokens)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        took.append(time.perf_counter() - start)
    return took[0], took[-1]


def _both_sides(session: Session, feature: int) -> tuple[float, float]:
    def ask(tokens: int) -> None:
        for side in SIDES:
            paths(session, _LAYER, feature, side, Settings(tokens=tokens))

    return _stages(session, ask)


def _switches(
    session: Session, side: Side, feature: int, rounds: int
) -> Iterator[tuple[float, float]]:
    """Switch one block of the side after the other, off or on again, as a user would."""
    path = session.lens.carrier.path(side, session.lens.dictionary(_LAYER))
    off: set[int] = set()
    chosen = random.Random(feature)
    for turn in range(rounds + 1):
        off ^= {chosen.choice(path)}
        now = frozenset(off)

        def ask(tokens: int, now: frozenset[int] = now) -> None:
            settings = Settings(off=now, tokens=tokens)
            signature(session, _LAYER, feature, settings, bottom=True)

        took = _stages(session, ask)
        if turn:  # the first carries the feature, which paths have not
            yield took


def _median(name: str, seconds: list[float], unit: float, target: float) -> Row:
    ordered = sorted(seconds)
    highest = ordered[math.ceil(0.95 * len(ordered)) - 1] / unit
    value = ordered[len(ordered) // 2] / unit
    return Row(f"{name}, median", value, "F", f"p95 {highest:.2f} F", target)


def _p95(name: str, seconds: list[float], unit: float, target: float) -> Row:
    ordered = sorted(seconds)
    value = ordered[math.ceil(0.95 * len(ordered)) - 1]
    middle = ordered[len(ordered) // 2] / unit
    return Row(f"{name}, p95", value / unit, "F", f"median {middle:.2f} F", target)


def _shown(tokens: tuple[int, ...]) -> str:
    return ", ".join(f"{each:,}" for each in tokens)
