"""Which blocks carry a signature: exact splits of a transition.

    first-reader   C_k = (T_value[in_k] - T_value[out_k]) v     all that starts with block k
                   C_k = k^T (T_key[out_k] - T_key[in_k])       all whose last step is block k
    last-writer    C_k = m_k J_k t_k                            what the walk added at block k
    first-order    C_k = m_k J_k v                              the block's own response

(method.md, section 3.) Each adds up, with the feature's own vector (`direct`), to the
transported vector, so that shares of the score of the signature's tokens add up to one;
the final norm is held at its value for the total. The first-reader split comes from
operators alone, or without them from one pass for its shares; the last-writer split is the
one that stays exact under a mask, and needs one direct pass.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_core.carry import Settings, Side, vectors_of
from lens_core.dictionaries.feature_dictionary import FeatureDictionary
from lens_core.direct import Transported
from lens_core.errors import UsageError
from lens_core.readout import embed_centered_cosine, top_k
from lens_core.terms import block_name

if TYPE_CHECKING:
    from lens_core.lens import QueryLens

Split = Literal["first-reader", "last-writer", "first-order"]

_TOKENS_PER_BLOCK = 5


@dataclass(frozen=True)
class PathShare:
    """A block's part in the score of the signature's tokens.

    `block` is a block's name, `direct` for the feature's own vector, or `bias` for what
    belongs to no path. The shares of all but `bias` sum to one and may be negative.
    `tokens` are what the block's own contribution favours, empty where only the share is
    known.
    """

    block: str
    share: float
    on: bool
    ids: tuple[int, ...]
    tokens: tuple[str, ...]


def paths(
    lens: QueryLens,
    side: Side,
    dictionary: FeatureDictionary,
    feature: int,
    settings: Settings,
    split: Split | None,
) -> tuple[Split, list[PathShare]]:
    """The split that was used, and a row for `direct`, each block on the way, and `bias`.

    `split` is `None` for the default: first-reader where it is exact, else last-writer;
    a transition that is not full has only its own first-order split.

    Raises:
        UsageError: `first-reader` where blocks are off or a norm stands in front.
    """
    transport = lens.transport
    carried = transport.carry(side, dictionary, feature, settings)
    ids, _ = top_k(lens.scores(side, carried.vector, normed=carried.normed), lens.k)
    direction = _direction(lens, side, ids, normed=carried.normed)
    chosen = _choose(lens, side, dictionary, settings, split)
    path, off = transport.path(side, dictionary), transport.off(side, dictionary, settings)
    total = direction @ carried.vector
    contributions: Tensor | None
    if len(off) == len(path):
        contributions = carried.direct.new_zeros(lens.model.n_blocks, lens.model.d_model)
        parts = contributions @ direction
    elif chosen == "first-reader" and (
        transport.method(dictionary, settings) == "direct" or not transport.has_blocks(dictionary)
    ):
        contributions = None
        start = vectors_of(side, dictionary)[feature]
        read = transport.read_back(side, direction) @ start
        parts = read[:-1] - read[1:] if side == "value" else read[1:] - read[:-1]
        # Of this very pass, so that the parts add up even where `carried` is float16's.
        total = read[path.start] if side == "value" else read[path.stop]
    else:
        if chosen == "last-writer" or not transport.has_blocks(dictionary):
            directly = replace(settings, method="direct")
            carried = transport.carry(side, dictionary, feature, directly)
            total = direction @ carried.vector
        contributions = carried.steps
        if contributions is None:
            contributions = transport.contributions(
                side, dictionary, feature, settings.transition, off
            )
        parts = contributions @ direction
    tokens = _favoured(lens, side, carried.direct, contributions, normed=carried.normed)
    rows = [PathShare("direct", _ratio(direction @ carried.direct, total), True, *tokens[-1])]
    for k in path:
        share = _ratio(parts[k], total)
        rows.append(PathShare(block_name(k), share, k not in off, *tokens.get(k, ((), ()))))
    bias = _bias(lens, side, ids, carried)
    if bias is not None:
        rows.append(PathShare("bias", _ratio(bias, total), True, (), ()))
    return chosen, rows


def block_tokens(
    lens: QueryLens, side: Side, dictionary: FeatureDictionary, feature: int, block: int
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Ids and texts of the tokens that one block favours in the first-reader split, best first.

    For where only the shares are known: `C_k` is the feature carried with all blocks off that a
    path through `k` may not have met before, less the same with `k` off too; two direct passes,
    of which the next block needs only one.

    Raises:
        UsageError: the block is not on the side's way.
    """
    path = lens.transport.path(side, dictionary)
    if block not in path:
        raise UsageError(f"{block_name(block)} is not on the way of the {side}")
    others = range(path.start, block) if side == "value" else range(block + 1, path.stop)
    with_block, without = (
        lens.transport.carry(side, dictionary, feature, Settings(off=off, method="direct")).vector
        for off in (frozenset(others), frozenset((*others, block)))
    )
    contributions = with_block.new_zeros(lens.model.n_blocks, lens.model.d_model)
    contributions[block] = with_block - without
    found = _favoured(lens, side, with_block, contributions, normed=False)
    return found.get(block, ((), ()))


def _choose(
    lens: QueryLens,
    side: Side,
    dictionary: FeatureDictionary,
    settings: Settings,
    split: Split | None,
) -> Split:
    if settings.transition != "full":
        if split is not None:
            raise UsageError(
                f"the {settings.transition} transition has one split only: leave --split out"
            )
        return "first-order"
    obstacle = lens.transport.obstacle(side, dictionary, settings)
    if split == "first-reader" and obstacle is not None:
        raise UsageError(f"no first-reader split where {obstacle}: use --split last-writer")
    return split or ("first-reader" if obstacle is None else "last-writer")


def _direction(
    lens: QueryLens, side: Side, ids: Int[Tensor, " k"], *, normed: bool
) -> Float[Tensor, " d_model"]:
    """`w` such that `w . x` is the summed score of `ids`, up to the readout's scale and bias."""
    if side == "key":
        return lens.rows[ids].sum(0)
    summed = lens.model.W_U[:, ids].sum(1)
    return summed if normed else lens.final_norm.pulled(summed)


def _bias(
    lens: QueryLens, side: Side, ids: Int[Tensor, " k"], carried: Transported
) -> Float[Tensor, ""] | None:
    """The score of `ids` that belongs to no path, on the scale of `_direction`'s products."""
    if side == "key" or carried.normed:
        return None
    b_norm, b_unembed = lens.final_norm.bias, lens.model.b_U
    if b_norm is None and b_unembed is None:
        return None
    bias = carried.vector.new_zeros(())
    if b_norm is not None:
        bias = bias + b_norm @ lens.model.W_U[:, ids].sum(1)
    if b_unembed is not None:
        bias = bias + b_unembed[ids].sum()
    return bias * lens.final_norm.scale(carried.vector)


def _favoured(
    lens: QueryLens,
    side: Side,
    direct: Float[Tensor, " d_model"],
    contributions: Float[Tensor, "blocks d_model"] | None,
    *,
    normed: bool,
) -> dict[int, tuple[tuple[int, ...], tuple[str, ...]]]:
    """The tokens that each block (-1: the feature itself) raises most, the norm's scale held."""
    vectors = {-1: direct}
    if contributions is not None:
        active = contributions.any(1).nonzero().squeeze(1)
        vectors |= {int(k): contributions[k] for k in active}
    stacked = torch.stack(list(vectors.values()))
    if side == "key":
        scores = embed_centered_cosine(stacked, lens.rows)
    else:
        scores = (stacked if normed else lens.final_norm.linear(stacked)) @ lens.model.W_U
    best = {}
    for k, row in zip(vectors, scores, strict=True):
        ids = top_k(row, min(lens.k, _TOKENS_PER_BLOCK))[0].tolist()
        best[k] = tuple(ids), tuple(lens.vocabulary.texts(ids))
    return best


def _ratio(part: Float[Tensor, ""], total: Float[Tensor, ""]) -> float:
    """`part / total`; NaN where the total is zero (a feature of length zero), as 0 / 0 is."""
    return float(part / total)
