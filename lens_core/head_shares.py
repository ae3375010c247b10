"""The heads of one attention block: its share of a score, split among them.

    C_k,i = the block's C_k with J_k,i, its derivative through head i alone, in place of J_k

(docs/method.md, section 3; the splits are those of `lens_core.paths`.) J_k is the sum of its
J_k,i, so that heads add up to their block in every split but ablation, which switches one head
off at a time. Heads always need walks over the reference: operators hold whole blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from lens_core.dictionaries.feature_dictionary import FeatureDictionary
from lens_core.errors import UsageError
from lens_core.feature_map import vectors_of
from lens_core.instruments import Instruments
from lens_core.lenses import QUERY
from lens_core.model import ResidualModel
from lens_core.paths import Favoured, ablation, choose_split, favoured, ratio
from lens_core.ranking import top_k
from lens_core.signature import PathShare
from lens_core.terms import (
    Head,
    Settings,
    Side,
    Split,
    Switch,
    block_name,
    block_of,
    heads_of,
    in_order,
    switch_name,
)


def head_shares(
    tools: Instruments,
    side: Side,
    dictionary: FeatureDictionary,
    feature: int,
    settings: Settings,
    split: Split | None,
    block: int,
) -> tuple[Split, list[PathShare], int]:
    """The split that was used, a row for each head of a block, and the tokens behind them.

    `split` as in `lens_core.paths`; `identity` has no heads to split among.

    Raises:
        UsageError: the block has no heads that can be told apart, or is not on the side's path;
            or as `lens_core.paths.paths`.
    """
    carrier, model = tools.carrier, tools.model
    check_switch(model, (block, 0))
    path = carrier.path(side, dictionary)
    if block not in path:
        raise UsageError(f"{block_name(block)} is not on the {side}'s path")
    chosen = choose_split(tools, side, dictionary, settings, split)
    heads: list[Head] = [(block, head) for head in range(model.n_heads(block))]
    off = carrier.off(side, dictionary, settings)
    is_on = [block not in off and head not in off for head in heads]
    carried = carrier.carry(side, dictionary, feature, settings)
    n_tokens = carried.n_tokens or carrier.reference.n_tokens

    def rows(shares: Sequence[float], tokens: Mapping[int, Favoured]) -> list[PathShare]:
        columns = zip(heads, shares, is_on, strict=True)
        return [
            PathShare(switch_name(head), share, on, *tokens.get(head[1], ((), ())))
            for head, share, on in columns
        ]

    if float(carried.vector.norm()) == 0:
        return chosen, rows([float("nan")] * len(heads), {}), n_tokens
    if chosen == "ablation":
        return chosen, *ablation(tools, side, dictionary, feature, settings, heads)
    if settings.transition == "identity" or not any(is_on):
        return chosen, rows([0.0] * len(heads), {}), n_tokens
    method = carrier.method(dictionary, settings, side)
    needs_walk = method == "direct" or not carrier.has_blocks(dictionary)
    readout = tools.readout(QUERY.readouts[side], normed=carried.normed)
    ids, _ = top_k(readout.scores(carried.vector), tools.k)
    direction = readout.direction(ids)
    total = direction @ carried.vector
    added: Float[Tensor, "heads d_model"] | None = None
    if chosen == "first-reader":
        start = vectors_of(side, dictionary)[feature]
        end = path.start if side == "value" else path.stop
        back = carrier.walks.back(side, direction, settings.positions, until=end)
        if needs_walk:
            total = back.at_sites(settings.tokens)[0][end] @ start
        read, n_tokens = back.of_heads(block, settings.tokens)
        parts = read @ start
    else:
        if needs_walk or chosen == "last-writer":
            settings = settings if method == "direct" else replace(settings, method="direct")
            carried = carrier.carry(side, dictionary, feature, settings)
            total = direction @ carried.vector
        added, n_tokens = carrier.of_heads(side, dictionary, feature, settings, block)
        parts = added @ direction
    shares = [ratio(part, total) for part in parts]
    return chosen, rows(shares, favoured(tools, readout, carried.direct, added)), n_tokens


def check_switch(model: ResidualModel, switch: Switch) -> None:
    """Raise if the model has no such block or head.

    Raises:
        UsageError: it has not, or the heads of the block cannot be told apart.
    """
    block = block_of(switch)
    if not 0 <= block < model.n_blocks:
        last = model.n_blocks - 1
        raise UsageError(f"there is no block {block}: the model has blocks 0 to {last}")
    if isinstance(switch, int):
        return
    name, mixed = block_name(block), model.mixed_heads(block)
    if block % 2:
        raise UsageError(f"{name} has no heads: it is an MLP")
    if mixed:
        raise UsageError(f"the heads of {name} cannot be told apart: {mixed}")
    n_heads = model.n_heads(block)
    if not 0 <= switch[1] < n_heads:
        raise UsageError(
            f"there is no {switch_name(switch)}: {name} has heads h0 to h{n_heads - 1}"
        )


def all_but(model: ResidualModel, kept: Iterable[Switch]) -> frozenset[Switch]:
    """Every block off but those of `kept`, and of a block with a kept head its other heads.

    Raises:
        UsageError: as `check_switch`.
    """
    kept = frozenset(kept)
    for switch in in_order(kept):
        check_switch(model, switch)
    off: set[Switch] = set()
    for block in set(range(model.n_blocks)) - kept:
        heads = heads_of(kept, block)
        if heads:
            off |= {(block, head) for head in range(model.n_heads(block)) if head not in heads}
        else:
            off.add(block)
    return frozenset(off)
