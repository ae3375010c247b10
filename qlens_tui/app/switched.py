"""The comparison with all blocks on that belongs to a side's lists, as far as it is there.

It is looked up by the lists that are drawn, not by those that are asked for, and taken only if it
is over as many tokens: what is said about a list is never about another one.
"""

from __future__ import annotations

from typing import Protocol

from lens_core.terms import Settings, Side, Switch, on_path
from qlens_tui.app.opened import Opened
from qlens_tui.app.views import SIDES, AgainstAllOn, Feature, Shown, TokenLook
from qlens_tui.engine import messages as m


def off_on_path(opened: Opened, layer: int, side: Side, settings: Settings) -> frozenset[Switch]:
    """The blocks and heads of a side's path that are off; none until the layer is described."""
    return on_path(settings.off, opened.blocks(layer, side) or ())


def comparison_of(
    opened: Opened, feature: Feature, settings: Settings
) -> m.ComputeComparison | None:
    """The request to compare a feature with all blocks on; `None` if nothing would differ."""
    layer, number = feature
    is_off = any(off_on_path(opened, layer, side, settings) for side in SIDES)
    if settings.transition == "identity" or not is_off:
        return None
    return m.ComputeComparison(layer=layer, feature=number, settings=settings)


def _lists_of(asked: m.ComputeComparison) -> m.ComputeSignature:
    return m.ComputeSignature(layer=asked.layer, feature=asked.feature, settings=asked.settings)


class Answered(Protocol):
    """The state, as far as it is needed here (`qlens_tui.app.state`)."""

    opened: Opened
    feature: Feature | None
    settings: Settings
    look: TokenLook

    def answer(self, question: m.Request | None) -> object: ...
    def problem(self, question: m.Request | None) -> str: ...
    def doing(self, question: m.Request | None, idle: str = ...) -> str: ...


def against_all_on(state: Answered, side: Side, shown: Shown[m.Signature]) -> AgainstAllOn | None:
    """What switches changed in the lists that are drawn; `None` if that is not to be shown.

    Lists over a part of the reference are not compared.
    """
    lists, of, opened = shown.answer, shown.of, state.opened
    if lists is None or of is None or not state.look.against_all_on:
        return None
    question = comparison_of(opened, of, lists.settings)
    if question is None or not off_on_path(opened, of[0], side, lists.settings):
        return None
    if state.answer(_lists_of(question)) is not lists:  # being replaced, or given up
        return AgainstAllOn()
    found, tokens = state.answer(question), lists.side(side).n_tokens
    change = found.side(side) if isinstance(found, m.Comparison) else None
    if change is not None and change.n_tokens == tokens:
        return AgainstAllOn(None if change.reason else change, problem=change.reason)
    if problem := state.problem(question):
        return AgainstAllOn(problem=problem)
    if (of, lists.settings) != (state.feature, state.settings):
        return AgainstAllOn()
    if tokens < opened.n_tokens:
        return AgainstAllOn(awaits=f"after all {opened.n_tokens:,} tokens")
    return AgainstAllOn(awaits=state.doing(question, "comparing"))
