"""Fidelity: how far one mean over a reference stands for what happens at its tokens.

    variance   E|g - mu|^2 / E|g|^2     g: the vector carried at a token, mu: its mean
    halves     |A and B| / |A or B|     lists of `k` from two halves of the reference
    thirds     |A and B and C| / |A or B or C|     lists from three disjoint thirds of it
    lenses     the same of the lists of Logit Lens, Query Lens and first order

(paper, appendix; docs/method.md, sections 4 and 5.) The first three say how much of a list is the
reference's doing: a variance of 0, an overlap of 1, and every token carries the feature alike. The
last one says how much of it is the method's.

Cost: `halves` and `lenses` are products with operators, for all features at once. `variance` takes
a walk over the reference for each feature, side and lens, `thirds` another; both are kept in the
result cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from lens_core.dictionaries.feature_dictionary import FeatureDictionary
from lens_core.errors import UsageError
from lens_core.feature_map import vectors_of
from lens_core.instruments import Instruments
from lens_core.lenses import FIRST_ORDER, LOGIT, QUERY, Lens
from lens_core.reference import ReferenceSample
from lens_core.scores.lists import sampled, top_lists
from lens_core.stability import stability
from lens_core.terms import SIDES, Side

FidelityProtocol = Literal["variance", "halves", "thirds", "lenses"]
FIDELITY_PROTOCOLS: tuple[FidelityProtocol, ...] = get_args(FidelityProtocol)
WALKED = 100
"""Features of a layer that are walked if no number is given."""

COMPARED, COMPARED_AS = (LOGIT, QUERY, FIRST_ORDER), "all"
"""Lenses whose lists are compared with one another, and what they are called together."""
_CARRIED = (QUERY, FIRST_ORDER)  # whose vectors depend on the reference

Tick = Callable[[str, int, int], None]
Found = dict[tuple[Side, str, int | None], Float[Tensor, " features"]]


@dataclass(frozen=True, eq=False)
class Fidelity:
    """One protocol's numbers for some features of a layer, by side, lens and length of the lists.

    NaN for a feature without a direction. A variance has no length (`None`).
    """

    protocol: FidelityProtocol
    features: Int64[Tensor, " features"]
    found: Found


def fidelity(
    tools: Instruments,
    dictionary: FeatureDictionary,
    protocols: Sequence[FidelityProtocol],
    lengths: Sequence[int],
    n: int | None,
    tick: Tick,
) -> list[Fidelity]:
    """The numbers of `n` features (`None`: all, or `WALKED` where each takes a walk).

    Raises:
        UsageError: the reference has fewer than three samples, or the operators know no stability.
        OperatorError: there are no operators, and a protocol needs them.
    """
    every = torch.ones(dictionary.n_features, dtype=torch.bool)
    many, few = sampled(every, n), sampled(every, WALKED if n is None else n)
    make = {
        "variance": lambda: Fidelity("variance", few, _variance(tools, dictionary, few, tick)),
        "halves": lambda: Fidelity("halves", many, _halves(tools, dictionary, many, lengths)),
        "thirds": lambda: Fidelity("thirds", few, _thirds(tools, dictionary, few, lengths, tick)),
        "lenses": lambda: Fidelity("lenses", many, _lenses(tools, dictionary, many, lengths, tick)),
    }
    return [make[protocol]() for protocol in protocols]


def three_way(lists: Sequence[Int64[Tensor, "n k"]]) -> Float[Tensor, " n"]:
    """Jaccard similarity of three sets of `k` ids, row by row; NaN where one has none (-1)."""
    one, two, three = lists
    in_two, in_three = (_among(one, other) for other in (two, three))
    all_three = (in_two & in_three).sum(1)
    pairs = in_two.sum(1) + in_three.sum(1) + _among(two, three).sum(1)
    found = all_three.double() / (3 * one.shape[1] - pairs + all_three)
    missing = (torch.stack([each[:, 0] for each in lists]) < 0).any(0)
    return found.masked_fill(missing, torch.nan)


def _among(one: Int64[Tensor, "n k"], other: Int64[Tensor, "n k"]) -> Bool[Tensor, "n k"]:
    return (one[:, :, None] == other[:, None, :]).any(2)


def _variance(
    tools: Instruments, dictionary: FeatureDictionary, features: Tensor, tick: Tick
) -> Found:
    found: Found = {}
    for side in SIDES:
        for lens in _CARRIED:
            settings = replace(lens.settings(tools.settings), method="direct")
            rows = []
            for at, feature in enumerate(features.tolist()):
                tick(
                    f"layer {dictionary.layer}, variance of {lens.title} {side}", at, len(features)
                )
                if _is_zero(side, dictionary, feature):
                    rows.append(torch.nan)
                    continue
                carried = tools.carrier.carry(side, dictionary, feature, settings)
                assert carried.relative_variance is not None
                rows.append(carried.relative_variance)
            found[side, lens.name, None] = torch.tensor(rows, dtype=torch.float64)
    return found


def _halves(
    tools: Instruments, dictionary: FeatureDictionary, features: Tensor, lengths: Sequence[int]
) -> Found:
    found: Found = {}
    for side in SIDES:
        readout = tools.readout(QUERY.readouts[side])
        for k in lengths:
            every = stability(tools.carrier, readout, side, dictionary, k)
            if every is not None:  # the operators that come with qlens know one length
                found[side, QUERY.name, k] = every.cpu().double()[features]
    if not found:
        raise UsageError(
            f"these operators hold no stability of lists of {', '.join(map(str, lengths))}: choose "
            "another -k, or run `qlens build` over at least two samples"
        )
    return found


def _thirds(
    tools: Instruments,
    dictionary: FeatureDictionary,
    features: Tensor,
    lengths: Sequence[int],
    tick: Tick,
) -> Found:
    lists: dict[tuple[Side, str], list[Tensor]] = {}
    for number, third in enumerate(thirds(tools.carrier.reference), 1):
        carrier = tools.carrier.over(third)
        for side in SIDES:
            for lens in _CARRIED:
                settings = replace(lens.settings(tools.settings), method="direct")
                readout = tools.readout(lens.readouts[side])
                best = torch.full((len(features), max(lengths)), -1)
                what = f"layer {dictionary.layer}, third {number}, {lens.title} {side}"
                for at, feature in enumerate(features.tolist()):
                    tick(what, at, len(features))
                    if _is_zero(side, dictionary, feature):
                        continue
                    vector = carrier.carry(side, dictionary, feature, settings).vector
                    if float(vector.norm()):
                        best[at] = readout.top_k(vector[None], max(lengths))[0][0].cpu()
                lists.setdefault((side, lens.name), []).append(best)
    return {
        (side, name, k): three_way([each[:, :k] for each in three])
        for (side, name), three in lists.items()
        for k in lengths
    }


def _lenses(
    tools: Instruments,
    dictionary: FeatureDictionary,
    features: Tensor,
    lengths: Sequence[int],
    tick: Tick,
) -> Found:
    found: Found = {}
    for side in SIDES:
        three = []
        for lens in COMPARED:

            def told(done: int, of: int, side: Side = side, lens: Lens = lens) -> None:
                tick(f"layer {dictionary.layer}, {lens.title} {side}", done, of)

            three.append(top_lists(tools, lens, side, dictionary, features, max(lengths), told))
        for k in lengths:
            found[side, COMPARED_AS, k] = three_way([each[:, :k] for each in three])
    return found


def thirds(reference: ReferenceSample) -> list[ReferenceSample]:
    """Three disjoint parts of the samples, one after another.

    Raises:
        UsageError: there are fewer than three.
    """
    n = reference.samples
    if n < 3:
        raise UsageError(
            f"a reference of {n} samples has no three parts to compare: raise [reference].samples"
        )
    cuts = [0, n // 3, 2 * n // 3, n]
    return [
        replace(
            reference,
            tokens=reference.tokens[first:last],
            ends=None if reference.ends is None else reference.ends[first:last],
        )
        for first, last in pairwise(cuts)
    ]


def _is_zero(side: Side, dictionary: FeatureDictionary, feature: int) -> bool:
    return float(vectors_of(side, dictionary)[feature].norm()) == 0
