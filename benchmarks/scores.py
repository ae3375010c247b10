"""(scores) Input and output scores of a layer of the demo against the passes that they need.

Input: the lists of all features under every lens, against the forward passes over 158,720 tokens
whose contexts they are scored on (those are part `contexts`). Output: what one feature takes, as
a multiple of one forward pass over all prefixes from the dictionary on, and against the naive
procedure: one prefix at a time through the whole model, strengths by plain bisection. The naive
time is its number of evaluations, counted on the same divergences, times one evaluation's.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from benchmarks.measure import Report, Row, in_turns, peak_memory, progress, timed
from benchmarks.shape import TINY
from lens_core.kept_results import KeptResults
from lens_core.lens import QueryLens
from lens_core.lenses import LENSES
from lens_core.reference import ReferenceSample
from lens_core.scores import output_score
from lens_core.scores.lists import top_lists
from lens_core.scores.output_score import TARGETS, observe
from lens_core.scores.strength import TOLERANCE
from lens_core.short_texts import filled_up
from lens_core.steering import Steering
from lens_core.terms import SIDES

LAYER, TOKENS, FEATURES = 10, 158_720, 100
OUTPUT_SECONDS = 720
_STEERED = 8
_LOWEST, _HIGHEST = (
    1e-3,
    100.0,
)  # strengths that the naive procedure tries, in lengths of the stream


def run(*, quick: bool) -> Report:
    lens, prefixes, layer = _tiny() if quick else _demo()
    steered = 1 if quick else _STEERED
    dictionary = lens.dictionary(layer)
    features = torch.arange(dictionary.n_features)
    rows: list[Row] = []

    progress("lists of all features")
    sample = lens.carrier.reference
    tokens = sample.tokens.to(lens.model.device)

    def lists() -> None:
        for side in SIDES:
            for each in LENSES:
                top_lists(lens, each, side, dictionary, features, min(25, lens.model.d_vocab))

    def forward() -> None:
        lens.model.sites(tokens, last=dictionary.read_site)

    times = in_turns({"lists": lists, "forward": forward}, 1 if quick else 3)
    passes = times["forward"].smallest * TOKENS / tokens.numel()
    rows.append(
        Row(
            f"input: lists of {len(features):,} features over the passes of {TOKENS:,} tokens",
            times["lists"].smallest / passes, "x", times["lists"].spread,
        )
    )  # fmt: skip

    progress("output scores")
    lens.carrier.results = KeptResults(lens.model, sample, None)
    steering = Steering(lens.model, dictionary, prefixes)
    unit = steering.typical / float(dictionary.values[0].norm())
    one = min(timed(lambda: steering.logits(0, 0.3 * unit)) for _ in range(3))
    chosen = features[:steered].tolist()
    # Without what all features share, which is made once for a layer.
    set_up = timed(lambda: Steering(lens.model, dictionary, prefixes))
    each = (timed(lambda: observe(lens, dictionary, chosen, prefixes)) - set_up) / steered
    rows.append(Row("output: a feature over one pass behind the prefixes", each / one, "x"))
    whole = FEATURES * each + set_up
    rows.append(Row(f"output: {FEATURES} features of a layer", whole, "s", "", OUTPUT_SECONDS))
    naive = _naive_evaluations(steering, dictionary.values[0].norm()) * _by_prefix(lens, prefixes)
    rows.append(Row("output: the naive procedure over ours", naive / each, "x"))
    said = (
        f"{prefixes.samples} prefixes of {prefixes.n_sources} tokens, KL "
        f"{' and '.join(map(str, TARGETS))} within {TOLERANCE:.0%}, {steered} features",
    )
    return Report("(scores) scores against passes", said, (*rows, peak_memory()))


def _by_prefix(lens: QueryLens, prefixes: ReferenceSample) -> float:
    """Seconds for the whole model on one prefix after another."""

    def every() -> None:
        for at in range(prefixes.samples):
            end = lens.model.sites(torch.tensor([prefixes.ids(at)]))[-1][:, -1]
            lens.model.unembed(lens.model.final_norm(end))

    return min(timed(every) for _ in range(2))


@torch.no_grad()
def _naive_evaluations(steering: Steering, length: torch.Tensor) -> int:
    """How many evaluations plain bisection of the logarithm takes, for both divergences."""
    unit = steering.typical / float(length)
    clean = steering.clean.log_softmax(-1)
    count = 0

    def divergence(strength: float) -> float:
        nonlocal count
        count += 1
        steered = steering.logits(0, strength).log_softmax(-1)
        return float((clean.exp() * (clean - steered)).sum(-1).mean())

    for target in output_score.TARGETS:
        _bisect(divergence, target, _LOWEST * unit, _HIGHEST * unit)
    return count


def _bisect(divergence: Callable[[float], float], target: float, low: float, high: float) -> None:
    for _ in range(40):
        middle = math.sqrt(low * high)
        found = divergence(middle)
        if abs(found - target) <= TOLERANCE * target:
            return
        low, high = (middle, high) if found < target else (low, middle)


def _demo() -> tuple[QueryLens, ReferenceSample, int]:
    from lens_core.config import load_config
    from lens_core.scores.prefixes import scoring_prefixes
    from lens_core.session import open_session

    session = open_session(load_config("demo"), offline=True)
    prefixes = scoring_prefixes(session.model, prepend_bos=False)
    return session.lens, prefixes, LAYER


def _tiny() -> tuple[QueryLens, ReferenceSample, int]:
    layer = TINY.n_layers // 2
    lens = TINY.lens(4, {layer: TINY.dictionary(layer, 64)})
    generator = torch.Generator().manual_seed(0)
    rows = [tuple(torch.randint(0, 50, (n,), generator=generator).tolist()) for n in (3, 4, 5)]
    texts, ends = filled_up(rows)
    return lens, ReferenceSample(texts, "made up", ends=ends), layer
