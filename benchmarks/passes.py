"""(b) One operator pass against one forward of the residual stream over the same tokens.

The forward pass has no unembedding. A pass is what `qlens build` does for one row: one pass
through every block, and the sums by site and bucket. Recording, once per micro-batch and unit of
64 rows, is measured separately.
"""

from __future__ import annotations

import torch

from benchmarks.measure import Report, Row, Times, in_turns, peak_memory, progress, timed
from benchmarks.shape import GPT2_SMALL, TINY
from lens_core.errors import LensError
from lens_core.linearization import Linearization
from lens_core.model import ResidualModel
from lens_core.operators.passes import FAMILIES, Positions
from lens_core.reference import ReferenceSample

REVERSE_AT_MOST, FORWARD_AT_MOST = 1.2, 1.4


def run(*, quick: bool) -> Report:
    rounds = 1 if quick else 8
    said = ["timed in turns, smallest of each; x is times one forward of the residual stream"]
    rows = []
    if not quick:
        try:
            rows += _rows("SmolLM2", *_smollm2(), rounds)
        except LensError as error:
            said.append(f"SmolLM2 left out: {error}")
    # As many samples per pass as in a build of 32 x 32 tokens: half of them.
    shape = TINY if quick else GPT2_SMALL
    rows += _rows(shape.name, shape.model(), shape.reference(16), rounds)
    return Report("(b) one pass against one forward", tuple(said), (*rows, peak_memory()))


def _smollm2() -> tuple[ResidualModel, ReferenceSample]:
    from lens_core.config import load_config
    from lens_core.session import open_session

    session = open_session(load_config("smollm2-neurons"), offline=True)
    return session.model, session.reference


def _rows(name: str, model: ResidualModel, reference: ReferenceSample, rounds: int) -> list[Row]:
    progress(f"passes of {name}")
    tokens = reference.tokens.to(model.device)
    positions = Positions.of(reference)
    vector = torch.zeros(1, model.d_model, dtype=model.dtype, device=model.device)
    vector[0, 0] = 1
    tag = f"{name}, {reference.samples} x {reference.length}"
    model.sites(tokens)
    recording = Linearization(model, tokens, forward_mode=True)
    runs = {"forward": lambda: model.sites(tokens)} | {
        family.name: lambda family=family: family.run(recording, vector, positions)  # type: ignore[misc]
        for family in FAMILIES
    }
    times = in_turns(runs, rounds)
    del recording, runs
    forward = times["forward"]
    rows = [Row(f"{tag}: one forward", 1000 * forward.smallest, "ms", forward.spread)]
    for family in FAMILIES:
        kind, bound = (
            ("forward mode", FORWARD_AT_MOST) if family.forward_mode
            else ("reverse", REVERSE_AT_MOST)
        )  # fmt: skip
        took = times[family.name]
        ratio = took.smallest / forward.smallest
        rows.append(Row(f"{tag}: {family.name} pass, {kind}", ratio, "x", took.spread, bound))
    for forward_mode, what in ((False, "reverse"), (True, "forward mode")):
        recorded = Times(tuple(
            timed(lambda mode=forward_mode: Linearization(model, tokens, forward_mode=mode))  # type: ignore[misc]
            for _ in range(2)
        ))  # fmt: skip
        ratio = recorded.smallest / forward.smallest
        rows.append(Row(f"{tag}: recording for {what}, once a unit", ratio, "x", recorded.spread))
    return rows
