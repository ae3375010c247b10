"""Input score: the share of a feature's contexts whose token is in a list.

    I(T) = |{t in A : t in T}| / |A|      A: the peak tokens of `CONTEXTS` contexts, repeats kept

(paper, section 4; docs/method.md, sections 5 and 5a.) A context is a sample of a text other than
the reference, at the token where the feature fires most. Protocols differ in which contexts count
and when two tokens are the same:

    in-order    the first contexts in the order of the text; the same id
    published   the strongest contexts, as in the authors' code; the same string

A feature with fewer contexts, or without a list, has no score. The **ceiling** is what the `k`
most frequent peak tokens of one half of the contexts score on the other half, both ways: no list
made without looking at these texts can be expected to do better. Contexts go to the halves in turn.

All of this is counted from one table, the rank of each context's token in the list, so that every
`k` costs one comparison.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

from lens_core.activity import FeatureActivity

CONTEXTS = 20
"""Contexts of a feature that count; with fewer it has no score (paper, section 4)."""
ABSENT = 1 << 30
"""The rank of a token that is not in a list."""
# Features whose tokens are compared at once: 20 x 25 comparisons each.
_AT_ONCE = 1 << 14

InputProtocol = Literal["published", "in-order"]
INPUT_PROTOCOLS: tuple[InputProtocol, ...] = get_args(InputProtocol)


@dataclass(frozen=True, eq=False)
class PeakTokens:
    """The tokens on which every feature of a layer fires in its contexts.

    `ids` are -1 where a feature has fewer contexts; `counts`: the features that have enough.
    `same` gives each id the lowest id that counts as the same token.
    """

    ids: Int64[Tensor, "n_features contexts"]
    same: Int64[Tensor, " d_vocab"]

    @property
    def counts(self) -> Bool[Tensor, " n_features"]:
        return self.ids[:, -1] >= 0


def peak_tokens(
    activity: FeatureActivity,
    tokens: Int[Tensor, "samples length"],
    protocol: InputProtocol,
    same: Int64[Tensor, " d_vocab"],
) -> PeakTokens:
    """The peak tokens of `CONTEXTS` contexts of each feature, in the protocol's order."""
    if protocol == "published":
        samples, positions = activity.top_samples, activity.top_positions
    else:
        samples, positions = activity.first_samples, activity.first_positions
    samples, positions = (each[:, :CONTEXTS].cpu().long() for each in (samples, positions))
    ids = tokens.cpu()[samples.clamp(min=0), positions.clamp(min=0)].long()
    return PeakTokens(ids.masked_fill(samples < 0, -1), same.cpu())


def input_ranks(
    peaks: PeakTokens, lists: Int[Tensor, "n_features k"]
) -> Int64[Tensor, "n_features contexts"]:
    """The rank of each context's token in the feature's list, `ABSENT` if it is not there.

    `lists` are -1 for a feature without a list.
    """
    found = []
    parts = (torch.split(each, _AT_ONCE) for each in (peaks.ids, lists.cpu()))
    for ids, best in zip(*parts, strict=True):
        ours = peaks.same[ids.clamp(min=0)].masked_fill(ids < 0, -1)
        theirs = peaks.same[best.clamp(min=0).long()].masked_fill(best < 0, -2)
        found.append(_first_match(ours, theirs))
    return torch.cat(found)


def ceiling_ranks(peaks: PeakTokens) -> Int64[Tensor, "n_features contexts"]:
    """The same for the list of the most frequent tokens of the half that a context is not in.

    Of equally frequent ones the first comes first.
    """
    found = torch.full_like(peaks.ids, ABSENT)
    every = peaks.same[peaks.ids.clamp(min=0)]
    for half in (0, 1):
        seen, judged = every[:, half::2], every[:, 1 - half :: 2]
        alike = seen[:, :, None] == seen[:, None, :]
        count = alike.sum(2)
        before = torch.ones(alike.shape[1:], dtype=torch.bool).tril(-1)
        is_first = ~(alike & before).any(2)
        # Of two different tokens the more frequent comes first, or else the earlier.
        ahead = (count[:, None, :] > count[:, :, None]) | (
            (count[:, None, :] == count[:, :, None]) & before
        )
        rank = (ahead & is_first[:, None, :]).sum(2)
        match = (judged[:, :, None] == seen[:, None, :]) & is_first[:, None, :]
        ranks = rank[:, None, :].expand_as(match).masked_fill(~match, ABSENT).amin(2)
        found[:, 1 - half :: 2] = ranks
    return found


def scores_at(ranks: Int64[Tensor, "n_features contexts"], k: int) -> Float[Tensor, " n_features"]:
    """The share of contexts whose token is among the first `k` of the list."""
    return (ranks < k).double().mean(1)


def _first_match(
    ours: Int64[Tensor, "n contexts"], theirs: Int64[Tensor, "n k"]
) -> Int64[Tensor, "n contexts"]:
    match = ours[:, :, None] == theirs[:, None, :]
    place = torch.arange(theirs.shape[1])
    return torch.where(match, place, ABSENT).amin(2)
