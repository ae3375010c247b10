"""Which blocks carry a signature: exact splits of a transition, and what each block's loss costs.

    first-reader   C_k = (T_value[in_k] - T_value[out_k]) v     all paths that start with block k
                   C_k = k^T (T_key[out_k] - T_key[in_k])       all paths that end with block k
    last-writer    C_k = m_k J_k t_k                            what block k adds to the vector
    first-order    C_k = m_k J_k v                              the block's own response
    ablation       C_k = t - t without block k                  all paths that pass block k

(docs/method.md, sections 3 and 8.) In each split but ablation the parts and the feature's own
vector (`direct`) add up to the transported vector, so that the shares of the score of the
signature's tokens add up to one; the final norm is held at its value for the total. The
first-reader split needs only operators or, without them, one pass for its shares. The last-writer
split needs one direct pass and is exact under a mask too.

Ablation is what switching one block off does: the drop of the scores as they are shown, each with
its own final norm, and the overlap of the lists. A path through two blocks counts for both, so
that nothing adds up. It needs a walk from every block on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from lens_core.dictionaries.feature_dictionary import FeatureDictionary
from lens_core.errors import UsageError
from lens_core.feature_map import first_reader, vectors_of
from lens_core.instruments import Instruments
from lens_core.lenses import QUERY
from lens_core.ranking import outermost, top_k
from lens_core.readout import Readout, read_together
from lens_core.signature import PathShare
from lens_core.stability import jaccard
from lens_core.terms import Settings, Side, Split, Switch, block_name, block_of, switch_name

Favoured = tuple[tuple[int, ...], tuple[str, ...]]
"""Ids and texts of the tokens that a vector raises most."""

_TOKENS_PER_BLOCK = 5


def paths(
    tools: Instruments,
    side: Side,
    dictionary: FeatureDictionary,
    feature: int,
    settings: Settings,
    split: Split | None,
) -> tuple[Split, list[PathShare], int]:
    """The split that was used, a row for `direct`, each block of the path, and `bias`; the tokens.

    `split` is `None` for the default: first-reader where it is exact, else last-writer;
    a transition that is not full has its own first-order split. Ablation has no row but blocks.

    Raises:
        UsageError: `split` is `first-reader` where blocks are off or a norm's Jacobian is applied.
    """
    carrier, model = tools.carrier, tools.model
    carried = carrier.carry(side, dictionary, feature, settings)
    readout = tools.readout(QUERY.readouts[side], normed=carried.normed)
    chosen = choose_split(tools, side, dictionary, settings, split)
    path, off = carrier.path(side, dictionary), carrier.off(side, dictionary, settings)
    n_tokens = carried.n_tokens or carrier.reference.n_tokens
    if float(carried.vector.norm()) == 0:
        return chosen, _nothing(path, off), n_tokens
    if chosen == "ablation":
        return chosen, *ablation(tools, side, dictionary, feature, settings, path)
    method = carrier.method(dictionary, settings, side)
    ids, _ = top_k(readout.scores(carried.vector), tools.k)
    direction = readout.direction(ids)
    total = direction @ carried.vector
    contributions: Tensor | None
    if carrier.is_all_off(side, dictionary, settings):
        contributions = carried.direct.new_zeros(model.n_blocks, model.d_model)
        parts = contributions @ direction
    elif chosen == "first-reader" and (method == "direct" or not carrier.has_blocks(dictionary)):
        contributions = None
        start = vectors_of(side, dictionary)[feature]
        end = path.start if side == "value" else path.stop
        back = carrier.walks.back(side, direction, settings.positions, until=end)
        sites, n_tokens = back.at_sites(settings.tokens)
        read = sites @ start
        parts = first_reader(side, read[:-1], read[1:])
        # From the same pass, so that the parts add up even where `carried` came from float16.
        total = read[end]
    else:
        if chosen == "last-writer" or not carrier.has_blocks(dictionary):
            if method == "operator":
                directly = replace(settings, method="direct")
                carried = carrier.carry(side, dictionary, feature, directly)
                n_tokens = carried.n_tokens or carrier.reference.n_tokens
            total = direction @ carried.vector
        contributions = carried.steps
        if contributions is None:
            contributions = carrier.contributions(
                side, dictionary, feature, replace(settings, off=off)
            )
        parts = contributions @ direction
    tokens = favoured(tools, readout, carried.direct, contributions)
    rows = [PathShare("direct", ratio(direction @ carried.direct, total), True, *tokens[-1])]
    for k in path:
        share = ratio(parts[k], total)
        rows.append(PathShare(block_name(k), share, k not in off, *tokens.get(k, ((), ()))))
    constant = readout.constant(ids)
    if constant is not None:
        # Scaled like the products with `direction`.
        bias = constant * readout.norm_scale(carried.vector)
        rows.append(PathShare("bias", ratio(bias, total), True, (), ()))
    return chosen, rows, n_tokens


def block_tokens(
    tools: Instruments, side: Side, dictionary: FeatureDictionary, feature: int, block: int
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Ids and texts of the tokens that one block raises most in the first-reader split.

    Used where only the shares are known. `C_k` is the difference of two carried vectors: one
    with the blocks between the feature and `block` off, one with `block` off as well. Costs two
    direct passes, or one if those of a neighbouring block are cached.

    Raises:
        UsageError: the block is not on the side's path.
    """
    path = tools.carrier.path(side, dictionary)
    if block not in path:
        raise UsageError(f"{block_name(block)} is not on the {side}'s path")
    others = range(path.start, block) if side == "value" else range(block + 1, path.stop)
    with_block, without = (
        tools.carrier.carry(side, dictionary, feature, Settings(off=off, method="direct")).vector
        for off in (frozenset(others), frozenset((*others, block)))
    )
    contributions = with_block.new_zeros(tools.model.n_blocks, tools.model.d_model)
    contributions[block] = with_block - without
    readout = tools.readout(QUERY.readouts[side])
    found = favoured(tools, readout, with_block, contributions)
    return found.get(block, ((), ()))


def ablation(
    tools: Instruments,
    side: Side,
    dictionary: FeatureDictionary,
    feature: int,
    settings: Settings,
    switches: Sequence[Switch],
) -> tuple[list[PathShare], int]:
    """A row for each of `switches`: what its loss costs; the tokens behind them.

    They are the blocks of the path, or the heads of one of them. Everything by the direct method,
    so that nothing but the switch differs.
    """
    carrier = tools.carrier
    if carrier.method(dictionary, settings, side) == "operator":
        settings = replace(settings, method="direct")
    off = carrier.off(side, dictionary, settings)
    on = [each for each in switches if each not in off and block_of(each) not in off]
    carried = carrier.carry(side, dictionary, feature, settings)
    n_tokens = carried.n_tokens or carrier.reference.n_tokens
    if not on:
        vectors = carried.vector[:0].view(0, len(carried.vector))
    elif settings.transition == "first-order":
        steps = carried.steps
        if not isinstance(on[0], int):
            steps, n_tokens = carrier.of_heads(side, dictionary, feature, settings, on[0][0])
        assert steps is not None
        vectors = (
            carried.vector - steps[[each if isinstance(each, int) else each[1] for each in on]]
        )
    else:
        vectors, n_tokens = carrier.ablated(side, dictionary, feature, settings, on)
    readout = tools.readout(QUERY.readouts[side], normed=carried.normed)
    scores = read_together([(readout, each) for each in (carried.vector, *vectors)])
    lists = outermost(scores, tools.k)
    ids = lists[0]
    summed = scores[:, ids].sum(1)
    constant = readout.constant(ids)
    total = summed[0] if constant is None else summed[0] - constant
    overlaps = jaccard(lists[:1].expand(len(lists), -1), lists)
    tokens = favoured(tools, readout, carried.direct, carried.vector - vectors)
    found = {each: PathShare(switch_name(each), 0.0, False, (), ()) for each in switches}
    for at, switch in enumerate(on):
        share = ratio(summed[0] - summed[at + 1], total)
        overlap = float(overlaps[at + 1]) if bool(vectors[at].any()) else None  # it has no list
        found[switch] = PathShare(
            switch_name(switch), share, True, *tokens.get(at, ((), ())), overlap
        )
    return list(found.values()), n_tokens


def choose_split(
    tools: Instruments,
    side: Side,
    dictionary: FeatureDictionary,
    settings: Settings,
    split: Split | None,
) -> Split:
    """The split that is used where `split` is asked for, `None` for the default.

    Raises:
        UsageError: the settings do not have that split.
    """
    if split == "ablation" and settings.transition != "identity":
        return split
    if settings.transition != "full":
        if split is not None:
            raise UsageError(
                f"the {settings.transition} transition has no {split} split: remove --split"
            )
        return "first-order"
    obstacle = tools.carrier.obstacle(side, dictionary, settings)
    if settings.positions != "all" and obstacle is not None:
        obstacle = tools.carrier.obstacle(side, dictionary, replace(settings, positions="all"))
    if split == "first-reader" and obstacle is not None:
        raise UsageError(f"no first-reader split where {obstacle}: use --split last-writer")
    return split or ("first-reader" if obstacle is None else "last-writer")


def _nothing(path: range, off: frozenset[Switch]) -> list[PathShare]:
    """The rows of a vector of length zero, which has no score to share: NaN everywhere."""
    rows = [PathShare("direct", float("nan"), True, (), ())]
    rows += [PathShare(block_name(k), float("nan"), k not in off, (), ()) for k in path]
    return rows


def favoured(
    tools: Instruments,
    readout: Readout,
    direct: Float[Tensor, " d_model"],
    contributions: Float[Tensor, "blocks d_model"] | None,
) -> dict[int, Favoured]:
    """The tokens that each block (-1: the feature itself) raises most, at a fixed norm scale.

    A contribution of length zero has no tokens.
    """
    vectors = {-1: direct}
    if contributions is not None:
        active = contributions.any(1).nonzero().squeeze(1)
        vectors |= {int(k): contributions[k] for k in active}
    best: dict[int, Favoured] = {-1: ((), ())}
    vectors = {k: vector for k, vector in vectors.items() if float(vector.norm()) > 0}
    if not vectors:
        return best
    scores = readout.parts(torch.stack(list(vectors.values())))
    for k, row in zip(vectors, scores, strict=True):
        ids = top_k(row, min(tools.k, _TOKENS_PER_BLOCK))[0].tolist()
        best[k] = tuple(ids), tuple(tools.vocabulary.texts(ids))
    return best


def ratio(part: Float[Tensor, ""], total: Float[Tensor, ""]) -> float:
    """`part / total`; NaN if both are zero."""
    return float(part / total)
