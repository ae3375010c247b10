"""What the app asks the engine, and when: little while the cursor moves, the rest when it stops.

`Requests` sends requests and withdraws those that no longer matter. `FeatureRequests` asks for
what the panes lack of the feature under the cursor: its lists at once, slower answers when the
cursor rests. No Textual and no engine here: sending and waiting are passed in as functions.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from qlens_tui.app.alarm import After, Alarm
from qlens_tui.app.comparing import asked_to_compare
from qlens_tui.app.one_block import heads_asked, tokens_asked
from qlens_tui.app.state import State
from qlens_tui.app.views import SIDES, Feature
from qlens_tui.engine import messages as m

_RESTS = 0.08  # seconds on a feature until its paths and evidence are asked for
_RESTS_ON_BLOCK = 0.4  # seconds; longer, because a block's tokens take passes
# A key held down repeats every 30 ms or so: skip the features in between.
_QUICK, _SETTLES = 0.1, 0.06


class Requests:
    """Sends requests to the engine and withdraws them."""

    def __init__(
        self,
        state: State,
        send: Callable[[m.Request], int],
        *,
        early: Callable[[m.Request], None] = lambda _question: None,
    ) -> None:
        """`send` sends a request and returns its id; `early` is given what no engine can answer."""
        self._state = state
        self._send = send
        self._early = early
        self.opening: int | None = None
        """The id of the request that opens the session, while it is under way."""

    def open(self, request: m.Open) -> None:
        """Open a session: earlier requests will not be answered."""
        self._state.begin()
        opened = self._state.opened
        opened.session = opened.kept = None
        opened.has_own_texts = False
        self.opening = self._send(request)

    def ask(self, question: m.Request, name: str = "") -> bool:
        """Send a request unless it is under way; `name` lists it as a job. False: no session."""
        if self._state.opened.session is None:
            self._early(question)
            return False
        if not self._state.is_under_way(question):
            self._state.asked(self._send(question), question, name)
        return True

    def cancel(self, number: int) -> None:
        """Stop a request; finished parts stay in the cache."""
        self._send(m.Cancel(target=number))

    def withdraw(self, number: int) -> None:
        """Stop a request whose answer is no longer needed."""
        self._state.work[number].is_withdrawn = True
        self.cancel(number)

    def withdraw_stale(self, ahead: Feature | None = None) -> None:
        """Stop the passes for other features or settings, which would delay the current ones.

        `ahead` is a feature for which something may have been asked ahead of the user.
        """
        state = self._state
        wanted: set[m.Request | None] = {state.lists_asked, state.comparison_asked}
        wanted |= {state.shares_asked(side) for side in SIDES}
        to_compare = asked_to_compare(state)
        wanted |= {heads_asked(state), *to_compare}
        layers = {each.layer for each in to_compare if isinstance(each, m.ComputeEvidence)}
        if ahead is not None:
            wanted |= {state.shares_of(ahead, side) for side in SIDES}
        for work in state.under_way:
            match work.request:
                case (
                    m.ComputeSignature()
                    | m.ComputeCosines()
                    | m.ComputeComparison()
                    | m.ComputePaths()
                ):
                    stale = work.request not in wanted
                case m.ComputeBlockTokens():
                    stale = work.request != tokens_asked(state)
                case m.ComputeEvidence(layer=layer):  # one pass serves the layer
                    here = state.feature is not None and layer == state.feature[0]
                    stale = not here and layer not in layers
                case _:
                    continue
            if stale:
                self.withdraw(work.id)


class FeatureRequests:
    """Asks for what the panes lack of the feature under the cursor."""

    def __init__(
        self,
        state: State,
        requests: Requests,
        after: After,
        *,
        ahead: Callable[[], Feature | None] = lambda: None,
        reads_blocks: Callable[[], bool] = lambda: True,
        asked: Callable[[], None] = lambda: None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """`ahead`: the feature that the cursor comes to next if it moves on, if any.

        `reads_blocks`: whether the cursor is in the paths, so that a block's tokens are wanted.

        `asked` is called after these were asked for, to redraw the pane.
        """
        self._state = state
        self._requests = requests
        self._ahead = ahead
        self._reads_blocks = reads_blocks
        self._asked = asked
        self._clock = clock or time.monotonic
        self._moved = -_QUICK
        self._settling = Alarm(after, self.ask_all)
        self._resting = Alarm(after, self.ask_all)
        self._on_block = Alarm(after, self._ask_block)

    @property
    def is_waiting(self) -> bool:
        """Whether requests will be sent if the cursor stays where it is."""
        return any(alarm.is_set for alarm in (self._settling, self._resting, self._on_block))

    @property
    def is_running(self) -> bool:
        """Whether the cursor moves too fast to ask for each feature."""
        return self._settling.is_set

    def moved(self) -> None:
        """The cursor moved to another feature: ask now, or after it stops if it moves fast."""
        now = self._clock()
        runs, self._moved = now - self._moved < _QUICK, now
        if runs:
            self._settling.put_off(_SETTLES)
        else:
            self.changed()

    def changed(self) -> None:
        """Feature or settings changed: ask for lists now, the rest when the cursor rests."""
        self._settling.stop()
        self._requests.withdraw_stale()
        self._ask(self._state.lists_asked)
        self._resting.put_off(_RESTS)

    def block_moved(self) -> None:
        """The cursor moved to another block: ask for its tokens if it stays there."""
        self._on_block.put_off(_RESTS_ON_BLOCK)

    def answered(self) -> None:
        """A request was answered or dropped: ask for what the panes still lack."""
        if not self._settling.is_set and not self._resting.is_set:
            self.ask_all()
        if not self._on_block.is_set:
            self._ask_block()

    def ask_all(self) -> None:
        """Ask for everything that the panes lack."""
        self._settling.stop()
        self._resting.stop()
        ahead = self._ahead()
        self._requests.withdraw_stale(ahead)
        self._ask(self._state.lists_asked)
        self._ask(self._state.comparison_asked)
        for side in SIDES:
            self._ask(self._state.shares_asked(side))
        self._ask(heads_asked(self._state))
        self._ask(self._state.evidence_asked)
        for question in asked_to_compare(self._state):
            self._ask(question)
        if ahead is not None and not self._state.under_way:
            self._ask_ahead(ahead)

    def _ask_ahead(self, feature: Feature) -> None:
        """Nothing is asked: the first shares of the feature that the user may come to."""
        for side in SIDES:
            question = self._state.shares_of(feature, side)
            if self._state.answer(question) is None:
                self._ask(replace(question, ahead=True))

    def _ask_block(self) -> None:
        """A block's tokens take passes of their own: ask only while the cursor is in the paths."""
        if self._reads_blocks():
            self._ask(tokens_asked(self._state))
            self._asked()

    def _ask(self, question: m.Request | None) -> None:
        if question is not None and self._state.is_lacking(question):
            assert isinstance(question, m.OfFeature)
            self._requests.ask(question)
