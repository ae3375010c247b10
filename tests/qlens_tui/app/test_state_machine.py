"""No pane ever shows numbers of another feature or setting as if they were the asked ones.

Moves, jumps, filters, switches and a whimsical engine in any order: late answers, answers to
questions long withdrawn, failures, drops, cancels, crashes, a model given back. After every step
each view is looked at as a pane would draw it. No Textual, and no time but the machine's own.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from lens_core.terms import block_name, in_order, on_path, splits
from qlens_tui.app.comparing import asked_to_compare, compare_view
from qlens_tui.app.last_visit import LastVisit
from qlens_tui.app.one_block import heads_asked
from qlens_tui.app.opened import Opened
from qlens_tui.app.requests import FeatureRequests, Requests
from qlens_tui.app.standing import GRACE
from qlens_tui.app.state import State
from qlens_tui.app.views import SIDES, PathsView, TokenLook
from qlens_tui.engine import messages as m
from qlens_tui.table.row_reader import RowReader
from tests.qlens_tui.app.features import answer_to, layer_of, ready, signature

LAYERS, FEATURES, MODEL_LAYERS = (1, 2), 2, 4
ATLAS = 7
HEAD = st.tuples(st.sampled_from(range(0, 2 * MODEL_LAYERS, 2)), st.integers(0, 2))
FEATURE = st.tuples(st.sampled_from(LAYERS), st.integers(0, FEATURES - 1))


@dataclass
class _Timer:
    at: float
    act: Callable[[], None]

    def stop(self) -> None:
        self.act = lambda: None


class Panes(RuleBasedStateMachine):
    """The state as the workbench uses it, and an engine that says anything."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.timers: list[_Timer] = []
        self.count = self.operators = 0
        self.sent: dict[int, m.Request] = {}
        self.opened = Opened(LastVisit())
        self.state = State(self.opened, clock=lambda: self.now)
        self.requests = Requests(self.state, self._send)
        self.ahead: tuple[int, int] | None = None
        self.asking = FeatureRequests(
            self.state, self.requests, self._after, ahead=lambda: self.ahead,
            clock=lambda: self.now,
        )  # fmt: skip
        self.differs: dict[str, float] = {}
        self.reader = RowReader(Future())

    def _send(self, request: m.Request) -> int:
        self.count += 1
        if not isinstance(request, m.Open | m.Cancel):
            self.sent[self.count] = request
        if isinstance(request, m.ComputePaths) and request.ahead:
            assert self.state.answer(request) is None, "asked ahead again"
            others = [work.request for work in self.state.under_way]
            assert all(isinstance(each, m.ComputePaths) and each.ahead for each in others)
        return self.count

    def _after(self, seconds: float, act: Callable[[], None]) -> _Timer:
        self.timers.append(_Timer(self.now + seconds, act))
        return self.timers[-1]

    # What the user does.

    @initialize()
    def open(self) -> None:
        self.requests.open(m.Open(config="c"))
        self.is_opened()

    @rule(feature=FEATURE)
    def move(self, feature: tuple[int, int]) -> None:
        self.state.layer = feature[0]
        self.state.focus(feature)
        self.asking.moved()

    @rule()
    def filter_hides_everything(self) -> None:
        self.state.focus(None)
        self.asking.moved()

    @rule(off=st.sets(st.integers(0, 2 * MODEL_LAYERS - 1) | HEAD, max_size=3))
    def switch(self, off: set[m.Switch]) -> None:
        self.state.carry(replace(self.state.settings, off=frozenset(off)))
        self.asking.changed()

    @rule(transition=st.sampled_from(("identity", "first-order", "full")))
    def choose_transition(self, transition: m.Transition) -> None:
        self.state.carry(replace(self.state.settings, transition=transition))
        self.asking.changed()

    @rule(feature=st.none() | FEATURE)
    def head_for(self, feature: tuple[int, int] | None) -> None:
        self.ahead = feature
        self.asking.answered()

    @rule(feature=st.none() | FEATURE)
    def pin(self, feature: tuple[int, int] | None) -> None:
        self.state.pinned = feature
        self.asking.changed()

    @rule(split=st.sampled_from((None, "last-writer", "ablation")))
    def choose_split(self, split: m.Split | None) -> None:
        self.state.split = split
        self.asking.changed()

    @rule(block=st.none() | st.sampled_from(range(0, 2 * MODEL_LAYERS, 2)))
    def open_heads(self, block: int | None) -> None:
        self.state.heads = block
        self.asking.changed()

    @rule(
        end=st.sampled_from(("top", "bottom")),
        length=st.sampled_from((5, 10, None)),
        against_all_on=st.booleans(),
    )
    def look(self, end: Any, length: int | None, against_all_on: bool) -> None:
        self.state.look = TokenLook(end=end, length=length, against_all_on=against_all_on)
        self.asking.changed()

    @rule(block=st.integers(0, 2 * MODEL_LAYERS - 1))
    def rest_on_block(self, block: int) -> None:
        self.state.block = block
        self.asking.block_moved()

    @rule(seconds=st.sampled_from((0.01, 0.05, GRACE, 1.0)))
    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while due := [timer for timer in self.timers if timer.at <= end]:
            first = min(due, key=lambda timer: timer.at)
            self.timers.remove(first)
            self.now = max(self.now, first.at)
            first.act()
            self.nothing_is_shown_for_what_it_is_not()
        self.now = end

    # What the engine does: of any request, whether or not it was withdrawn or dealt with before.

    def _answer(self, number: int) -> m.Event:
        """An answer by the current operators, which are identified by the number of tokens."""
        return answer_to(self.sent[number], number, MODEL_LAYERS, self.operators)

    def _say(self, event: m.Event) -> None:
        self.state.take(event)
        self.asking.answered()
        self.nothing_is_shown_for_what_it_is_not()

    @precondition(lambda self: self.sent)
    @rule(
        data=st.data(),
        kind=st.sampled_from(("answer", "answer", "part", "part", "fail", "drop", "cancel")),
    )
    def settle(self, data: st.DataObject, kind: str) -> None:
        number = data.draw(st.sampled_from(sorted(self.sent)))
        event: m.Event = m.Dropped(id=number)
        if kind in ("answer", "part"):
            event = self._answer(number)
            if kind == "part" and isinstance(event, m.SignatureReady | m.PathsReady):
                event = replace(event, is_last=False)
        elif kind == "fail":
            event = m.Failed(id=number, text="out of memory")
        elif kind == "cancel":
            event = m.Cancelled(id=number)
        self._say(event)

    @precondition(lambda self: self.state.work)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.state.work)))
        self._say(self._answer(number))

    @rule(feature=FEATURE)
    def look_at_a_feature_until_all_of_it_is_there(self, feature: tuple[int, int]) -> None:
        self.wait(1.0)
        self.move(feature)
        self.nothing_is_shown_for_what_it_is_not()
        self.wait(GRACE)
        for number in sorted(self.state.work):
            self._say(self._answer(number))
        self.wait(GRACE)

    @rule(
        feature=FEATURE,
        kinds=st.sets(st.sampled_from((m.ComputeSignature, "value", "key", m.ComputeEvidence))),
    )
    def move_on_and_wait_for_the_rest(self, feature: tuple[int, int], kinds: set[Any]) -> None:
        self.wait(1.0)
        self.move(feature)
        self.nothing_is_shown_for_what_it_is_not()
        self.wait(0.1)
        for number in sorted(self.state.work):
            asked = self.sent[number]
            if (asked.side if isinstance(asked, m.ComputePaths) else type(asked)) in kinds:
                self._say(self._answer(number))
        self.wait(GRACE)

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), done=st.integers(0, 9))
    def progress(self, data: st.DataObject, done: int) -> None:
        number = data.draw(st.sampled_from(sorted(self.sent)))
        self._say(m.Status(id=number, text="reading", done=done, total=9))

    @precondition(lambda self: self.opened.session is not None)
    @rule()
    def crash(self) -> None:
        self.opened.session = None
        self.state.lost("the engine crashed")

    @precondition(lambda self: self.opened.session is None)
    @rule()
    def restart(self) -> None:
        self.requests.open(m.Open(config="c"))

    @precondition(lambda self: self.opened.session is None)
    @rule()
    def is_opened(self) -> None:
        self.state.open(ready(LAYERS, MODEL_LAYERS, k=25))
        self.asking.changed()

    @rule(layer=st.sampled_from(LAYERS))
    def describe(self, layer: int) -> None:
        self.opened.described[layer] = layer_of(layer, MODEL_LAYERS)
        self.asking.changed()

    @rule()
    def operators_are_built(self) -> None:
        self.operators += 1
        self.state.forget_answers()
        self.asking.changed()

    @rule(data=st.data())
    def read_an_atlas_row(self, data: st.DataObject) -> None:
        layer, feature = self.state.feature or data.draw(FEATURE)
        found = signature(layer, feature, k=ATLAS)
        self.state.stand_in(replace(found, settings=m.Settings(), n_tokens=self.operators))

    # What a pane may draw.

    def _check(self, pane: str, is_asked: bool, is_grey: bool) -> None:
        if is_asked:
            self.differs.pop(pane, None)
            assert not is_grey, f"{pane} is grey though it is what is asked for"
            return
        since = self.differs.setdefault(pane, self.now)
        assert is_grey or self.now < since + GRACE, f"{pane} shows other numbers as the asked ones"

    @invariant()
    def nothing_is_shown_for_what_it_is_not(self) -> None:
        state = self.state
        for side in SIDES:
            shown = state.lists_view(side).shown
            found = shown.answer
            if found is None:
                self.differs.pop(side, None)
            else:
                assert shown.of == (found.layer, found.feature)
                asked = state.feature, state.settings, self.operators
                is_asked = (shown.of, found.settings, found.n_tokens) == asked
                is_from_atlas = len(found.value.top.query_lens.ids) == ATLAS
                is_asked &= not is_from_atlas or state.look.end == "top"
                self._check(side, is_asked, shown.late)
            self._look_at_the_comparison(side)
        evidence = state.evidence_shown()
        if evidence.answer is None:
            self.differs.pop("evidence", None)
        else:
            assert evidence.of == (evidence.answer.layer, evidence.answer.feature)
            asked = state.feature, self.operators
            self._check("evidence", (evidence.of, evidence.answer.n_tokens) == asked, evidence.late)
        self._look_at_paths()
        self._look_at_the_pinned()

    def _look_at_the_pinned(self) -> None:
        """All numbers are of the two features that are named, with the settings of the lists."""
        state, view = self.state, compare_view(self.state, self.reader)
        assert view.pinned == state.pinned
        assert (view.there is None) == (view.here is None)
        if view.there is None or view.here is None:
            assert state.pinned is None or view.shown.answer is None
            return
        lists = view.here.signature
        assert lists is view.shown.answer
        assert lists is not None
        assert (view.there.feature, view.here.feature) == (state.pinned, view.shown.of)
        for one in (view.there, view.here):
            layer, feature = one.feature
            if one.signature is not None:
                of = one.signature.layer, one.signature.feature
                assert (*of, one.signature.settings) == (layer, feature, lists.settings)
            if one.evidence is not None:
                assert (one.evidence.layer, one.evidence.feature) == one.feature
            for side, paths in one.paths.items():
                assert (paths.layer, paths.feature, paths.side) == (layer, feature, side)
                own = on_path(lists.settings.off, self.opened.blocks(layer, side) or ())
                assert on_path(paths.settings.off, self.opened.blocks(layer, side) or ()) == own
                assert paths.settings.transition == lists.settings.transition
        if view.cosines is not None:
            of = view.cosines.layer, view.cosines.feature
            other = view.cosines.other_layer, view.cosines.other_feature
            assert (of, other) == (view.here.feature, view.there.feature)
            assert view.cosines.settings == lists.settings

    def _look_at_the_comparison(self, side: m.Side) -> None:
        """It is of the lists that are drawn, whether or not these are asked for."""
        view, state = self.state.lists_view(side), self.state
        lists, against = view.shown.answer, view.against
        if lists is None:
            assert against is None
            return
        own = on_path(lists.settings.off, self.opened.blocks(lists.layer, side) or ())
        is_switched = bool(own) and lists.settings.transition != "identity"
        assert (against is not None) == (is_switched and state.look.against_all_on)
        if against is None:
            return
        assert bool(against.change) + bool(against.awaits) + bool(against.problem) <= 1
        if against.change is not None:
            change = against.change.top["query"]
            of = 1000.0 * lists.layer + lists.feature + 1
            said = against.change.off, against.change.k, change.all_on_score
            assert said == (tuple(in_order(own)), lists.n_tokens, of)
        is_asked = (view.shown.of, lists.settings) == (state.feature, state.settings)
        if is_asked and not view.shown.late and lists.n_tokens == self.operators:
            assert against.change or against.awaits or against.problem

    def _look_at_paths(self) -> None:
        state, view = self.state, self.state.paths_view()
        for side in SIDES:
            shares, pane = view.sides[side], f"{side} paths"
            if shares.paths is None:
                self.differs.pop(pane, None)
                continue
            paths = shares.paths
            assert view.shown.of == (paths.layer, paths.feature)
            assert paths.side == side
            question = state.shares_asked(side)
            is_asked = question is not None and (
                (paths.layer, paths.feature, paths.settings, paths.n_tokens)
                == (question.layer, question.feature, question.settings, self.operators)
            )
            if is_asked:
                usual = splits(question.settings.transition, any_off=bool(question.settings.off))[0]
                is_asked = paths.split == (question.split or usual)
                is_asked &= not state.problem(question)  # a stage is there, and the rest failed
            if view.shown.of == state.feature and not is_asked:
                assert shares.late, f"{pane} shows other switches as the asked ones"
            elif view.shown.of != state.feature:
                self._check(pane, False, shares.late)
            else:
                self._check(pane, True, shares.late)
        self._look_at_heads(view)
        if view.block is not None:
            assert view.shown.of == state.feature
            assert view.block.block == state.block

    def _look_at_heads(self, view: PathsView) -> None:
        state = self.state
        assert (view.heads is None) == (state.heads is None)
        if view.heads is None or view.heads.shares.paths is None:
            return
        assert view.heads.block == state.heads
        paths, question = view.heads.shares.paths, heads_asked(state)
        assert (paths.layer, paths.feature) == state.feature
        assert paths.block == block_name(view.heads.block)
        is_asked = question is not None and (
            (paths.side, paths.settings, paths.n_tokens)
            == (question.side, question.settings, self.operators)
        )
        if is_asked:
            usual = splits(question.settings.transition, any_off=bool(question.settings.off))[0]
            is_asked = paths.split == (question.split or usual)
        assert is_asked or view.heads.shares.late, "heads of other switches as the asked ones"

    @invariant()
    def whatever_a_pane_waits_for_is_under_way_or_about_to_be_asked(self) -> None:
        state = self.state
        if self.opened.session is None or self.asking.is_waiting:
            return
        asked = [work.request for work in state.work.values()]
        for question in (
            state.lists_asked, state.comparison_asked, state.evidence_asked, heads_asked(state),
            *map(state.shares_asked, SIDES), *asked_to_compare(state),
        ):  # fmt: skip
            has_outcome = state.answer(question) is not None or state.problem(question)
            assert question is None or has_outcome or question in asked

    @invariant()
    def a_pane_says_what_it_waits_for_or_why_there_is_nothing(self) -> None:
        state = self.state
        if state.feature is None:
            return
        for side in SIDES:
            shown = state.lists_view(side).shown
            assert bool(shown.awaits) + bool(shown.problem) <= 1
            assert shown.answer is not None or shown.awaits or shown.problem
            if shown.late:
                assert shown.awaits or shown.problem


def test_no_pane_shows_numbers_of_another_feature_or_setting_as_the_asked_ones() -> None:
    run_state_machine_as_test(
        Panes, settings=hypothesis_settings(max_examples=100, stateful_step_count=25, deadline=None)
    )
