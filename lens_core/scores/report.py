"""The table of scores of a session: which lists, which features, which rows.

The same features are judged for every lens of a protocol: those with enough contexts and with a
list under each of the lenses, so that means can be compared.
"""

from __future__ import annotations

from collections import defaultdict
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
from lens_core.scores.rows import ScoreRow
from lens_core.terms import SIDES, Side

LENGTHS = (5, 10, 20, 25)
"""The lengths of lists that are scored (paper, section 4)."""

Tick = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and the total; may raise to cancel."""


@dataclass(frozen=True)
class Asked:
    """What to score: lenses, protocols of the input score, lengths, and how many features.

    `features` is how many of each layer (`None`: all).
    """

    lenses: tuple[Lens, ...] = LENSES
    protocols: tuple[InputProtocol, ...] = ("published", "in-order")
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
class LayerScores:
    """Scores of one layer's features: `scores[side, lens, protocol, k]` and the ceilings.

    One number for each of `features[protocol]`; `left_out[protocol]` have none.
    """

    layer: int
    features: Mapping[InputProtocol, Int64[Tensor, " judged"]]
    left_out: Mapping[InputProtocol, int]
    scores: Mapping[tuple[Side, str, InputProtocol, int], list[float]]
    ceilings: Mapping[tuple[InputProtocol, int], list[float]]


def layer_scores(
    tools: Instruments,
    layer: int,
    corpus: ReferenceSample,
    file: Path,
    asked: Asked,
    tick: Tick = lambda _what, _done, _of: None,
) -> LayerScores:
    """The input scores of a layer's features in `corpus`, whose contexts `qlens contexts` found.

    `file` holds them.

    Raises:
        UsageError: a lens carries features one by one, and no number of them was given.
        StoreError: the file is damaged.
    """
    asked.check(tools.model.d_vocab)
    dictionary = tools.dictionary(layer)
    demand_sample(tools, dictionary, asked)
    activity = read_reading(file).activity
    peaks = {each: _peaks(tools, activity, corpus, each) for each in asked.protocols}
    # Protocols need the same number of contexts, and so have the same features.
    features = sampled(next(iter(peaks.values())).counts, asked.features)
    lists = {}
    for side in SIDES:
        for lens in asked.lenses:
            if lens.missing(tools, side, dictionary):
                continue

            def told(done: int, of: int, side: Side = side, lens: Lens = lens) -> None:
                tick(f"layer {layer}, {lens.title} {side}", done, of)

            lists[side, lens.name] = top_lists(
                tools, lens, side, dictionary, features, asked.longest, told
            )
    has_lists = torch.ones(len(features), dtype=torch.bool)
    for found in lists.values():
        has_lists &= found[:, 0] >= 0
    judged = features[has_lists]
    scores: dict[tuple[Side, str, InputProtocol, int], list[float]] = {}
    ceilings: dict[tuple[InputProtocol, int], list[float]] = {}
    for protocol, peak in peaks.items():
        ours = PeakTokens(peak.ids[judged], peak.same)
        best = ceiling_ranks(ours)
        for k in asked.lengths:
            ceilings[protocol, k] = scores_at(best, k).tolist()
        for (side, name), found in lists.items():
            ranks = input_ranks(ours, found[has_lists])
            for k in asked.lengths:
                scores[side, name, protocol, k] = scores_at(ranks, k).tolist()
    wanted = dictionary.n_features
    if asked.features is not None:
        wanted = min(asked.features, wanted)
    return LayerScores(
        layer,
        dict.fromkeys(asked.protocols, judged),
        dict.fromkeys(asked.protocols, wanted - len(judged)),
        scores,
        ceilings,
    )


def rows_of(layers: Sequence[LayerScores]) -> list[ScoreRow]:
    """Rows for each layer, then, if there are several, for the mean over them."""
    rows: list[ScoreRow] = []
    for each in layers:
        for (side, lens, protocol, k), found in each.scores.items():
            rows.append(
                ScoreRow.of(
                    each.layer, side, lens, "input", protocol, k, of_features(found),
                    each.left_out[protocol], of_features(each.ceilings[protocol, k]).mean,
                )
            )  # fmt: skip
    if len(layers) > 1:
        together: dict[tuple[Side, str, InputProtocol, int], list[LayerScores]] = defaultdict(list)
        for each in layers:
            for key in each.scores:
                together[key].append(each)
        for key, those in together.items():
            side, lens, protocol, k = key
            rows.append(
                ScoreRow.of(
                    None, side, lens, "input", protocol, k,
                    of_layers([each.scores[key] for each in those]),
                    sum(each.left_out[protocol] for each in those),
                    of_layers([each.ceilings[protocol, k] for each in those]).mean,
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


def _peaks(
    tools: Instruments,
    activity: FeatureActivity,
    corpus: ReferenceSample,
    protocol: InputProtocol,
) -> PeakTokens:
    d_vocab = tools.model.d_vocab
    same = torch.arange(d_vocab)
    if protocol == "published":
        same = torch.tensor(tools.vocabulary.same_text)
    return peak_tokens(activity, corpus.tokens, protocol, same)
