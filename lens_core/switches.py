"""Compare a feature's lists with blocks off to those with all blocks on.

Both vectors are read with the same readouts, so that ranks and scores are exact for every token,
however far it moved (`lens_core.comparison` defines the figures). Costs one product with the
vocabulary; with all blocks on, operators carry the vector, or one walk of the recording, which is
kept in the result cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from lens_core.blocked_topk import ranks_of
from lens_core.comparison import ListChange, RankedToken, SideComparison
from lens_core.dictionaries.feature_dictionary import FeatureDictionary
from lens_core.direct import Transported
from lens_core.feature_map import vectors_of
from lens_core.instruments import Instruments
from lens_core.lenses import LENSES, Lens
from lens_core.ranking import outermost
from lens_core.readout import read_together
from lens_core.signature import NO_DIRECTION
from lens_core.terms import OperatorSource, Settings, Side, in_order


def against_all_on(
    tools: Instruments,
    side: Side,
    dictionary: FeatureDictionary,
    feature: int,
    settings: Settings,
    *,
    length: int | None = None,
    lenses: Sequence[Lens] = LENSES,
) -> SideComparison | None:
    """One side's lists of `length` tokens (`None`: `k`) against those with all blocks on.

    For those of `lenses` that carry the vector. `None` if no block of the side's path is off, or
    the transition is `identity`. Not compared, with a reason, are vectors of length zero, and
    results over different numbers of tokens.

    Raises:
        ModelError: a score is NaN.
    """
    carrier = tools.carrier
    off = carrier.off(side, dictionary, settings)
    if not off or settings.transition == "identity":
        return None
    every = carrier.reference.n_tokens
    chosen = [
        lens
        for lens in lenses
        if side in lens.readouts and lens.settings(settings).transition != "identity"
    ]
    start = vectors_of(side, dictionary)[feature]
    pairs = [
        _pair(tools, lens, side, dictionary, feature, settings)
        for lens in (chosen if bool(start.any()) else ())
    ]
    n_tokens = min((each.n_tokens or every for pair in pairs for each in pair), default=every)
    found = SideComparison(
        tuple(in_order(off)),
        tools.k,
        n_tokens,
        _operators(tools, side, dictionary, settings, n_tokens),
        {},
        {},
    )
    reason = _obstacle(pairs, every, is_carried=not carrier.is_all_off(side, dictionary, settings))
    if reason:
        return replace(found, reason=reason)
    asked = [
        (lens.readout(tools, side, dictionary, normed=each.normed), each.vector)
        for lens, pair in zip(chosen, pairs, strict=True)
        for each in pair
    ]
    scores = read_together(asked)
    length = max(length or 0, tools.k)

    def changes(*, lowest: bool) -> dict[str, ListChange]:
        return {
            lens.name: _change(tools, scores[2 * i], scores[2 * i + 1], length, lowest=lowest)
            for i, lens in enumerate(chosen)
        }

    return replace(found, top=changes(lowest=False), bottom=changes(lowest=True))


def _pair(
    tools: Instruments,
    lens: Lens,
    side: Side,
    dictionary: FeatureDictionary,
    feature: int,
    settings: Settings,
) -> tuple[Transported, Transported]:
    """The vector carried with blocks off, and with all on over the same tokens."""
    switched = lens.carry(tools, side, dictionary, feature, settings)
    asked = replace(settings, off=frozenset())
    method = tools.carrier.method(dictionary, lens.settings(asked), side)
    if method == "direct" or switched.n_tokens is not None:
        # By name, so that it is a walk of its own: the next switch goes on from the last one.
        asked = replace(asked, method="direct")
    return switched, lens.carry(tools, side, dictionary, feature, asked)


def _operators(
    tools: Instruments, side: Side, dictionary: FeatureDictionary, settings: Settings, n_tokens: int
) -> OperatorSource:
    """Which operators carry the side with all blocks on; those that do are over all tokens."""
    asked = replace(settings, off=frozenset())
    by_operators = tools.carrier.method(dictionary, asked, side) == "operator"
    is_whole = n_tokens == tools.carrier.reference.n_tokens
    return tools.carrier.source(dictionary) if by_operators and is_whole else "none"


def _obstacle(
    pairs: Sequence[tuple[Transported, Transported]], every: int, *, is_carried: bool
) -> str:
    """Why there is nothing to compare; empty if there is.

    Not `is_carried`: all blocks of the path are off, which is exact over any tokens.
    """
    if not pairs or not all(bool(switched.vector.any()) for switched, _ in pairs):
        return NO_DIRECTION
    for switched, on in pairs:
        if not bool(on.vector.any()):
            return f"with all blocks on, {NO_DIRECTION}"
        ours, theirs = (each.n_tokens or every for each in (switched, on))
        if is_carried and ours != theirs:
            return f"{ours:,} tokens were read with blocks off, {theirs:,} with all blocks on"
    return ""


def _change(
    tools: Instruments,
    off: Float[Tensor, " d_vocab"],
    on: Float[Tensor, " d_vocab"],
    length: int,
    *,
    lowest: bool,
) -> ListChange:
    """One list of `length` tokens by the scores `off`, against that by the scores `on`."""
    k, d_vocab = tools.k, len(off)
    ids = outermost(off[None], length, lowest=lowest)
    best_on = outermost(on[None], k, lowest=lowest)

    def ranks_by_place(n: int) -> Tensor:
        place = torch.arange(n, device=ids.device)
        return d_vocab - 1 - place if lowest else place

    rank, on_rank = ranks_by_place(ids.shape[1]), ranks_of(on[None], ids)[0]
    came_in = ~torch.isin(ids[0, :k], best_on[0])
    left = ~torch.isin(best_on[0], ids[0, :k])
    gone = best_on[:, left]
    return ListChange(
        ids=tuple(ids[0].tolist()),
        moved=tuple((on_rank - rank).tolist()),
        came_in=_ranked(tools, ids[0, :k][came_in], rank[:k][came_in], on_rank[:k][came_in]),
        left=_ranked(
            tools, gone[0], ranks_of(off[None], gone)[0], ranks_by_place(best_on.shape[1])[left]
        ),
        score=float(off[best_on[0]].double().sum()),
        all_on_score=float(on[best_on[0]].double().sum()),
    )


def _ranked(
    tools: Instruments, ids: Tensor, ranks: Tensor, on_ranks: Tensor
) -> tuple[RankedToken, ...]:
    known = ids.tolist()
    columns = known, tools.vocabulary.texts(known), (ranks + 1).tolist(), (on_ranks + 1).tolist()
    return tuple(RankedToken(*row) for row in zip(*columns, strict=True))
