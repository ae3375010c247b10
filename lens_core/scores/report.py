"""The table of scores of a session: which lists, which features, which rows.

The same features are judged for every lens: those for which the score is defined and that have a
list under each of the lenses, so that means can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor

from lens_core.activity import FeatureActivity
from lens_core.contexts.files import read_reading
from lens_core.dictionaries.feature_dictionary import FeatureDictionary
from lens_core.errors import UsageError
from lens_core.instruments import Instruments
from lens_core.lenses import LENSES, LOGIT, Lens
from lens_core.reference import ReferenceSample
from lens_core.scores.fidelity import FidelityProtocol, fidelity
from lens_core.scores.input_score import (
    InputProtocol,
    PeakTokens,
    ceiling_ranks,
    input_ranks,
    peak_tokens,
    scores_at,
)
from lens_core.scores.intervals import of_features, of_layers
from lens_core.scores.lists import sampled, top_lists
from lens_core.scores.output_score import OutputProtocol, observe
from lens_core.scores.published import observe_published
from lens_core.scores.rows import Kind, ScoreRow
from lens_core.terms import SIDES, Side

LENGTHS = (5, 10, 20, 25)
"""The lengths of lists that are scored (paper, section 4)."""
STEERED = 100
"""Features of a layer whose output score is taken if no number is given."""

Tick = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and the total; may raise to cancel."""


@dataclass(frozen=True)
class Asked:
    """What to score: lenses, lengths of lists, and how many features of each layer (`None`: all).

    Output scores are of `STEERED` features if no number is given: each takes seconds.
    """

    lenses: tuple[Lens, ...] = LENSES
    lengths: tuple[int, ...] = LENGTHS
    features: int | None = None

    @property
    def longest(self) -> int:
        return max(self.lengths)

    def check(self, d_vocab: int) -> None:
        """Refuse lists that are longer than the vocabulary.

        Raises:
            UsageError: they are.
        """
        if self.longest > d_vocab:
            raise UsageError(
                f"a list of {self.longest} tokens is longer than the vocabulary of {d_vocab}: "
                "lower -k"
            )


@dataclass(frozen=True, eq=False)
class Judged:
    """One score of one layer's features by one protocol, for every lens.

    A number for each of `features`, by side, lens and length, and by length for the ceiling, if
    there is one; `left_out` more were asked for and have none.
    """

    layer: int
    score: Kind
    protocol: str
    features: Int64[Tensor, " judged"]
    left_out: int
    scores: Mapping[tuple[Side, str, int | None], list[float]]
    ceilings: Mapping[int | None, list[float]]


def input_scores(
    tools: Instruments,
    layer: int,
    corpus: ReferenceSample,
    file: Path,
    protocols: Sequence[InputProtocol],
    asked: Asked,
    tick: Tick = lambda _what, _done, _of: None,
) -> list[Judged]:
    """A layer's input scores in `corpus`, whose contexts are in `file` (`lens_core.contexts`).

    Raises:
        UsageError: a lens carries features one by one, and no number of them was given.
        StoreError: the file is damaged.
    """
    asked.check(tools.model.d_vocab)
    dictionary = tools.dictionary(layer)
    demand_sample(tools, dictionary, asked)
    activity = read_reading(file).activity
    peaks = {each: _peaks(tools, activity, corpus, each) for each in protocols}
    # Protocols need the same number of contexts, and so have the same features.
    features = sampled(next(iter(peaks.values())).counts, asked.features)
    lists, has_lists = _lists(tools, dictionary, features, asked, tick)
    wanted = dictionary.n_features
    wanted = wanted if asked.features is None else min(asked.features, wanted)
    judged = features[has_lists]
    found = []
    for protocol, peak in peaks.items():
        ours = PeakTokens(peak.ids[judged], peak.same)
        best = ceiling_ranks(ours)
        scores: dict[tuple[Side, str, int | None], list[float]] = {}
        for (side, name), ids in lists.items():
            ranks = input_ranks(ours, ids[has_lists])
            for k in asked.lengths:
                scores[side, name, k] = scores_at(ranks, k).tolist()
        ceilings: dict[int | None, list[float]] = {
            k: scores_at(best, k).tolist() for k in asked.lengths
        }
        left_out = wanted - len(judged)
        found.append(Judged(layer, "input", protocol, judged, left_out, scores, ceilings))
    return found


def output_scores(
    tools: Instruments,
    layer: int,
    live: Tensor,
    prefixes: ReferenceSample,
    asked: Asked,
    tick: Tick = lambda _what, _done, _of: None,
    protocol: OutputProtocol = "paired",
) -> Judged:
    """A layer's output scores by steering behind `prefixes`, of some of its `live` features.

    `live`: for each feature whether it fires.

    Raises:
        UsageError: the dictionary cannot be spliced in, and the protocol does so.
    """
    asked.check(tools.model.d_vocab)
    dictionary = tools.dictionary(layer)
    wanted = STEERED if asked.features is None else asked.features
    features = sampled(live.cpu(), wanted)
    steer = observe if protocol == "paired" else observe_published
    observed = steer(
        tools,
        dictionary,
        features.tolist(),
        prefixes,
        lambda done, of: tick(f"steering layer {layer}, {protocol}", done, of),
    )
    lists, has_lists = _lists(tools, dictionary, observed.features, asked, tick)
    kept = observed.only(has_lists)
    scores: dict[tuple[Side, str, int | None], list[float]] = {
        (side, name, k): kept.scores(ids[has_lists], k)
        for (side, name), ids in lists.items()
        for k in asked.lengths
    }
    ceilings: dict[int | None, list[float]] = {k: kept.ceilings(k) for k in asked.lengths}
    left_out = min(wanted, dictionary.n_features) - len(kept.features)
    return Judged(layer, "output", protocol, kept.features, left_out, scores, ceilings)


def fidelity_scores(
    tools: Instruments,
    layer: int,
    protocols: Sequence[FidelityProtocol],
    asked: Asked,
    tick: Tick = lambda _what, _done, _of: None,
) -> list[Judged]:
    """How far a layer's lists depend on the reference; of `lens_core.scores.fidelity`.

    Raises:
        UsageError: the reference has too few samples, or operators know no stability.
        OperatorError: there are no operators, and a protocol needs them.
    """
    asked.check(tools.model.d_vocab)
    dictionary = tools.dictionary(layer)
    found = []
    for each in fidelity(tools, dictionary, protocols, asked.lengths, asked.features, tick):
        known = torch.stack(list(each.found.values())).isfinite().all(0)
        scores = {key: numbers[known].tolist() for key, numbers in each.found.items()}
        left_out = int((~known).sum())
        judged = each.features[known]
        found.append(Judged(layer, "fidelity", each.protocol, judged, left_out, scores, {}))
    return found


def rows_of(judged: Sequence[Judged]) -> list[ScoreRow]:
    """Rows for each layer, then, if there are several, for the mean over them."""
    rows = []
    layers = list(dict.fromkeys(each.layer for each in judged))
    for each in judged:
        for (side, lens, k), scores in each.scores.items():
            ceiling = of_features(each.ceilings.get(k, [])).mean
            estimate, left_out = of_features(scores), each.left_out
            rows.append(
                ScoreRow.of(
                    each.layer, side, lens, each.score, each.protocol, k, estimate, left_out,
                    ceiling,
                )
            )  # fmt: skip
    if len(layers) == 1:
        return rows
    for score, protocol in dict.fromkeys((each.score, each.protocol) for each in judged):
        those = [each for each in judged if (each.score, each.protocol) == (score, protocol)]
        for side, lens, k in dict.fromkeys(key for each in those for key in each.scores):
            have = [each for each in those if (side, lens, k) in each.scores]
            rows.append(
                ScoreRow.of(
                    None, side, lens, score, protocol, k,
                    of_layers([each.scores[side, lens, k] for each in have]),
                    sum(each.left_out for each in have),
                    of_layers([each.ceilings.get(k, []) for each in have]).mean,
                )
            )  # fmt: skip
    return rows


def demand_sample(tools: Instruments, dictionary: FeatureDictionary, asked: Asked) -> None:
    """Refuse lenses without lists, and to carry every feature of a dictionary one by one.

    Raises:
        UsageError: a lens has no list of this dictionary, or would have to carry all, and no
            number of features was given.
        LensFileError: the parameters of a lens do not fit.
        OperatorError: it would not have to if there were operators.
    """
    for lens in asked.lenses:
        reasons = [lens.missing(tools, side, dictionary) for side in lens.readouts]
        if all(reasons):
            raise UsageError(f"no list to score: {reasons[0]}")
    for side in SIDES:
        for lens in asked.lenses:
            if lens.missing(tools, side, dictionary):
                continue
            if lens.carries_all(tools, side, dictionary) or asked.features is not None:
                continue
            why = tools.carrier.obstacle(side, dictionary, lens.settings(tools.settings))
            if lens in LENSES and lens is not LOGIT and why is None:
                tools.carrier.operators_for(dictionary)  # says how to get some
            because = "" if why is None else f" ({why})"
            raise UsageError(
                f"{lens.title} carries features one by one here{because}: score a sample of them, "
                "--features 100"
            )


def _lists(
    tools: Instruments,
    dictionary: FeatureDictionary,
    features: Int64[Tensor, " chosen"],
    asked: Asked,
    tick: Tick,
) -> tuple[dict[tuple[Side, str], Tensor], Tensor]:
    """The lists of every lens that has the side, and which features have one under each."""
    lists = {}
    has_lists = torch.ones(len(features), dtype=torch.bool)
    for side in SIDES:
        for lens in asked.lenses:
            if lens.missing(tools, side, dictionary):
                continue

            def told(done: int, of: int, side: Side = side, lens: Lens = lens) -> None:
                tick(f"layer {dictionary.layer}, {lens.title} {side}", done, of)

            found = top_lists(tools, lens, side, dictionary, features, asked.longest, told)
            lists[side, lens.name] = found
            has_lists &= found[:, 0] >= 0
    return lists, has_lists


def _peaks(
    tools: Instruments,
    activity: FeatureActivity,
    corpus: ReferenceSample,
    protocol: InputProtocol,
) -> PeakTokens:
    same = torch.arange(tools.model.d_vocab)
    if protocol == "published":
        same = torch.tensor(tools.vocabulary.same_text)
    return peak_tokens(activity, corpus.tokens, protocol, same)
