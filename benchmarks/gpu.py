"""What a build of GPT-2 small's shape takes on an NVIDIA GPU, and what lower precision costs.

    python -m benchmarks.gpu [--samples 1024] [--passes 64] [--features 8]

For float32, TF32 and bfloat16: seconds of each operator family (`--passes` rows timed over the
whole reference, times d / passes, recording added), the share that this is of the card's own
rate for one large matrix product in that precision, peak memory; the error of those rows
against float32, and how much of the top 25 tokens of sample features stays the same. Those
features are carried through the recorded blocks, which equals the operators up to the order of
sums. Weights are random: with real ones, whose scores are further apart, more tokens stay.

Counted per token and pass, for every family: 2 FLOPs for each of the 12 L d^2 weights of the
blocks and 8 s d L for attention's two products with s positions, each of which is two products
in a derivative. Norms, softmax and activations are not counted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.measure import Report, Row, machine, progress, timed
from benchmarks.shape import GPT2_SMALL, TINY, Shape
from lens_core.blocked_topk import top_k_of_product
from lens_core.errors import LensError
from lens_core.linearization import Linearization
from lens_core.memory import FULL_TOKENS
from lens_core.model import ResidualModel
from lens_core.operators.passes import FAMILIES, Family, Positions
from lens_core.operators.plan import BuildPlan, plan_build
from lens_core.reference import ReferenceSample

PRECISIONS = ("float32", "TF32", "bfloat16")
_K = 25


@dataclass(frozen=True)
class Found:
    """The results for one precision: sums and seconds by family, and the lists of features."""

    sums: dict[str, Tensor]
    seconds: dict[str, float]
    lists: Tensor
    peak_bytes: int | None


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="Time a GPU.")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--samples", type=int, default=1024, help="of 32 tokens each")
    parser.add_argument("--passes", type=int, default=64, help="rows of each family")
    parser.add_argument("--features", type=int, default=8, help="per layer, for the lists")
    parser.add_argument("--tiny", action="store_true", help="a tiny shape, to see that it runs")
    chosen = parser.parse_args()
    device = torch.device(chosen.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA device here: run this on a machine with an NVIDIA GPU")

    shape = TINY if chosen.tiny else GPT2_SMALL
    passes = min(chosen.passes, shape.d_model)
    print(machine())
    found: dict[str, Found] = {}
    rates: dict[str, float] = {}
    said = [
        str(shape),
        f"{torch.cuda.get_device_name(device) if device.type == 'cuda' else 'CPU'}; "
        f"{chosen.samples} x 32 tokens; {passes} of {shape.d_model} passes of each family timed",
    ]
    for precision in PRECISIONS:
        progress(precision)
        with _precision(precision) as dtype:
            rates[precision] = _matrix_rate(device, dtype, 512 if chosen.tiny else 8192)
            try:
                found[precision] = _measure(
                    shape, device, dtype, chosen.samples, passes, chosen.features
                )
            except LensError as error:
                said.append(f"{precision} left out: {error}")
    tokens = chosen.samples * 32
    rows = [row for name in found for row in _rows(name, shape, tokens, passes, found, rates)]
    print(f"\n{Report('operators on a GPU', tuple(said), tuple(rows))}")


@contextmanager
def _precision(name: str) -> Iterator[torch.dtype]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if name == "TF32" else "highest")
    try:
        yield torch.bfloat16 if name == "bfloat16" else torch.float32
    finally:
        torch.set_float32_matmul_precision(before)


def _matrix_rate(device: torch.device, dtype: torch.dtype, n: int) -> float:
    """FLOP/s of one large product, measured on this card."""
    n = n if device.type == "cuda" else min(n, 1024)
    one, other = torch.randn(2, n, n, device=device).to(dtype)
    out = torch.empty_like(one)
    return 2 * n**3 / min(timed(lambda: torch.mm(one, other, out=out)) for _ in range(6))


def _measure(
    shape: Shape, device: torch.device, dtype: torch.dtype, samples: int, passes: int, features: int
) -> Found:
    model, reference = shape.model(device, dtype), shape.reference(samples)
    plan = plan_build(model, model.fingerprint, reference)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    sums, seconds = {}, {}
    for family in FAMILIES:
        sums[family.name], seconds[family.name] = _family(model, reference, plan, family, passes)
    lists = _lists(shape, model, reference, plan, features)
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return Found(sums, seconds, lists, peak)


def _family(
    model: ResidualModel, reference: ReferenceSample, plan: BuildPlan, family: Family, passes: int
) -> tuple[Tensor, float]:
    """Sums of the first `passes` rows, and seconds for all `d_model` of them, as a build does."""
    vectors = torch.eye(model.d_model, dtype=model.dtype, device=model.device)[:passes]
    total: Tensor | None = None
    recording_s = walking_s = 0.0
    for samples in (batch for half in (0, 1) for batch in plan.micro_batches(half)):
        tokens = reference.tokens[samples.start : samples.stop].to(model.device)
        kept: list[Linearization] = []
        recording_s += timed(
            lambda tokens=tokens, kept=kept: kept.append(  # type: ignore[misc]
                Linearization(model, tokens, forward_mode=family.forward_mode)
            )
        )
        at_once = max(1, min(32, FULL_TOKENS["cuda"] // tokens.numel()))
        positions = Positions.of(reference, samples)
        parts: list[Tensor] = []

        def walk(
            recording: Linearization = kept[0],
            parts: list[Tensor] = parts,
            at_once: int = at_once,
            positions: Positions = positions,
        ) -> None:
            for some in torch.split(vectors, at_once):
                parts.append(family.run(recording, some, positions).cpu().double())

        family.run(kept[0], vectors[:1], positions)
        walking_s += timed(walk)
        part = torch.cat(parts)
        total = part if total is None else total + part
    assert total is not None
    # Recorded once a unit, unless a half is a single micro-batch.
    units = 1 if len(plan.micro_batches(0)) == 1 else -(-plan.d_model // plan.rows_per_unit)
    return total, walking_s * model.d_model / passes + recording_s * units


def _lists(
    shape: Shape, model: ResidualModel, reference: ReferenceSample, plan: BuildPlan, features: int
) -> Tensor:
    """Top tokens of sample features on both sides, `[layers * features * 2, k]`, in float32."""
    layers = (0, shape.n_layers // 2 - 1, shape.n_layers - 1)
    wanted = [(2 * layer + 2, shape.dictionary(layer, features)) for layer in layers]
    carried = torch.zeros(2, len(layers), features, model.d_model, device=model.device)
    for samples in (batch for half in (0, 1) for batch in plan.micro_batches(half)):
        tokens = reference.tokens[samples.start : samples.stop].to(model.device)
        recording = Linearization(model, tokens, forward_mode=True)
        positions = Positions.of(reference, samples)
        for at, (site, dictionary) in enumerate(wanted):
            for feature in range(features):
                pairs = zip((dictionary.values, dictionary.keys), (_up, _down), strict=True)
                for side, (vectors, walk) in enumerate(pairs):
                    vector = vectors[feature : feature + 1].to(model.device, model.dtype)
                    start = positions.at_sources(vector, recording.shape)
                    ended = walk(recording, start, site)
                    carried[side, at, feature] += _sum(ended, positions)
    carried = (carried / reference.n_tokens).flatten(1, 2)
    values = model.final_norm(carried[0].to(model.dtype)).float()
    lists = [
        top_k_of_product(values, model.W_U.T.float(), None, _K)[0],
        top_k_of_product(carried[1], model.embedding.float(), None, _K)[0],
    ]
    return torch.cat(lists).cpu()


def _up(recording: Linearization, running: Tensor, site: int) -> Tensor:
    for block in recording.blocks[site:]:
        running = running + block.jvp(running)
    return running


def _down(recording: Linearization, running: Tensor, site: int) -> Tensor:
    for block in reversed(recording.blocks[:site]):
        running = running + block.vjp(running)
    return running


def _sum(tangent: Tensor, positions: Positions) -> Tensor:
    return tangent[:, positions.start : positions.stop].float().sum((0, 1))


def _rows(
    name: str,
    shape: Shape,
    tokens: int,
    passes: int,
    found: dict[str, Found],
    rates: dict[str, float],
) -> Iterator[Row]:
    this, exact = found[name], found.get("float32")
    a_token = 2 * shape.block_weights + 8 * 32 * shape.d_model * shape.n_layers
    yield Row(f"{name}: one large product", rates[name] / 1e12, "TFLOP/s")
    for family, seconds in this.seconds.items():
        rate = a_token * tokens * shape.d_model / seconds
        share = f"{rate / 1e12:.3g} TFLOP/s, {rate / rates[name]:.0%} of the card's rate"
        yield Row(f"{name}: {family} operators, all {shape.d_model} rows", seconds, "s", share)
    if exact is not None and name != "float32":
        for family, sums in this.sums.items():
            wanted = exact.sums[family]
            error = float((sums - wanted).norm() / wanted.norm())
            yield Row(f"{name}: error of {family} rows against float32", 100 * error, "%")
        same = (this.lists[:, :, None] == exact.lists[:, None, :]).any(-1).double().mean()
        yield Row(f"{name}: top 25 the same as in float32", 100 * float(same), "%")
    if this.peak_bytes is not None:
        yield Row(f"{name}: peak GPU memory", this.peak_bytes / 2**30, "GiB")


if __name__ == "__main__":
    main()
