"""What is asked and shown about single blocks: the tokens of one, and the heads of one.

Both are looked up by their requests, like all answers of the state. Heads of the same feature
with other switches, or of another kind of share, are shown grey until the asked ones arrive.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from lens_core.terms import block_name
from qlens_tui.app.opened import Opened
from qlens_tui.app.views import SIDES, BlockTokens, Feature, HeadShares, SideShares
from qlens_tui.engine import messages as m


class Answered(Protocol):
    """The state, as far as it is needed here (`qlens_tui.app.state`)."""

    opened: Opened
    feature: Feature | None
    block: int | None
    heads: int | None
    last_heads: m.Paths | None

    def answer(self, question: m.Request | None) -> object: ...
    def problem(self, question: m.Request | None) -> str: ...
    def doing(self, question: m.Request | None, idle: str = ...) -> str: ...
    def is_under_way(self, question: m.Request) -> bool: ...
    def shares_asked(self, side: m.Side) -> m.ComputePaths | None: ...


def tokens_asked(state: Answered) -> m.ComputeBlockTokens | None:
    """The tokens of the block under the cursor, if the shares came without them."""
    if state.feature is None or state.block is None:
        return None
    name = block_name(state.block)
    for side in SIDES:
        paths = state.answer(state.shares_asked(side))
        if not isinstance(paths, m.Paths) or paths.split != "first-reader":
            continue
        if any(row.block == name and row.on and not row.tokens for row in paths.rows):
            layer, feature = state.feature
            return m.ComputeBlockTokens(layer=layer, feature=feature, side=side, block=state.block)
    return None


def tokens_shown(state: Answered) -> BlockTokens | None:
    """What is known of these tokens."""
    question = tokens_asked(state)
    if question is None:
        return None
    found, problem = state.answer(question), state.problem(question)
    if isinstance(found, tuple):
        return BlockTokens(question.block, found)
    waits = state.is_under_way(question)
    awaits = state.doing(question, "computing its tokens") if waits else ""
    return BlockTokens(question.block, (), awaits, problem)


def heads_asked(state: Answered) -> m.ComputePaths | None:
    """The heads of the block that the user opened, in the split of the blocks' shares.

    Asked after the shares of its side, which take the same walks.
    """
    if state.feature is None or state.heads is None:
        return None
    for side in SIDES:
        blocks, of_side = state.opened.blocks(state.feature[0], side), state.shares_asked(side)
        if of_side is not None and blocks is not None and state.heads in blocks:
            is_next = state.answer(of_side) is not None
            return replace(of_side, block=state.heads) if is_next else None
    return None


def heads_shown(state: Answered) -> HeadShares | None:
    """The heads of the open block; `None` if none is open."""
    if state.heads is None:
        return None
    question = heads_asked(state)
    found, problem = state.answer(question), state.problem(question)
    awaits = "" if found is not None or problem else state.doing(question)
    if isinstance(found, m.Paths):
        state.last_heads = found
    last = state.last_heads
    if last is not None:
        same = (last.layer, last.feature), last.block
        last = last if same == (state.feature, block_name(state.heads)) else None
    return HeadShares(state.heads, SideShares(last, found is None, awaits, problem))
