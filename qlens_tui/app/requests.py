"""What the engine is asked, and when: the newest question wins, and whoever walks on asks little.

`Requests` sends questions and takes back those that no longer matter. `FeatureRequests` asks what
the panes lack of the feature under the cursor: its lists at once, what takes longer when the
cursor rests. No Textual here and no engine: they are given a way to send, and to wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from qlens_tui.app.alarm import After, Alarm
from qlens_tui.app.state import OF_PANES, State
from qlens_tui.app.views import SIDES
from qlens_tui.engine import messages as m

_RESTS = 0.08  # seconds on a feature until its paths and evidence are asked for
_RESTS_ON_BLOCK = 0.4  # seconds; what follows takes passes
# A key held down repeats every 30 ms or so: not every feature on the way is asked about.
_QUICK, _SETTLES = 0.1, 0.06


class Requests:
    """Questions on their way to the engine."""

    def __init__(self, state: State, send: Callable[[m.Request], int]) -> None:
        """`send` passes a request on and returns its number."""
        self._state = state
        self._send = send
        self.opening: int | None = None
        """The number of the request to open the session, while it is under way."""

    def open(self, request: m.Open) -> None:
        """Open a session: whatever was asked before will not be answered."""
        self._state.begin()
        self._state.opened.session = None
        self.opening = self._send(request)

    def ask(self, question: m.Request, name: str = "") -> bool:
        """Ask, unless that is under way; `name` lists it among the jobs. False: nobody to ask."""
        if self._state.opened.session is None:
            return False
        if not self._state.is_under_way(question):
            self._state.asked(self._send(question), question, name)
        return True

    def cancel(self, number: int) -> None:
        """Stop a request; what it finished is kept where it lies."""
        self._send(m.Cancel(target=number))

    def withdraw(self, number: int) -> None:
        """Stop a request whose answer nobody waits for any more."""
        self._state.work[number].is_withdrawn = True
        self.cancel(number)

    def withdraw_stale(self) -> None:
        """Passes for another feature, or other blocks, would keep the new ones waiting."""
        state = self._state
        wanted = {state.lists_asked, *map(state.shares_asked, SIDES)}
        for work in state.under_way:
            match work.request:
                case m.ComputeSignature() | m.ComputePaths():
                    stale = work.request not in wanted
                case m.ComputeBlockTokens(layer=layer, feature=feature):
                    stale = (layer, feature) != state.feature
                case m.ComputeEvidence(layer=layer):  # one pass serves the layer
                    stale = state.feature is None or layer != state.feature[0]
                case _:
                    continue
            if stale:
                self.withdraw(work.id)


class FeatureRequests:
    """Asks what the panes lack of the feature under the cursor."""

    def __init__(
        self,
        state: State,
        requests: Requests,
        after: After,
        *,
        reads_blocks: Callable[[], bool] = lambda: True,
        asked: Callable[[], None] = lambda: None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """`reads_blocks`: whether the user is among the paths, and wants a block's tokens.

        `asked` is called when these were asked for: the pane says so.
        """
        self._state = state
        self._requests = requests
        self._reads_blocks = reads_blocks
        self._asked = asked
        self._clock = clock or time.monotonic
        self._moved = -_QUICK
        self._settling = Alarm(after, self.ask_all)
        self._resting = Alarm(after, self.ask_all)
        self._on_block = Alarm(after, self._ask_block)

    @property
    def is_waiting(self) -> bool:
        """Whether something will be asked if the cursor stays where it is."""
        return any(alarm.is_set for alarm in (self._settling, self._resting, self._on_block))

    @property
    def is_running(self) -> bool:
        """Whether the cursor goes on faster than features are asked about."""
        return self._settling.is_set

    def moved(self) -> None:
        """The cursor is on another feature: ask, or if it runs, when it has stopped."""
        now = self._clock()
        runs, self._moved = now - self._moved < _QUICK, now
        if runs:
            self._settling.put_off(_SETTLES)
        else:
            self.changed()

    def changed(self) -> None:
        """Something else is wanted: lists at once, the rest if the cursor rests."""
        self._settling.stop()
        self._requests.withdraw_stale()
        self._ask(self._state.lists_asked)
        self._resting.put_off(_RESTS)

    def block_moved(self) -> None:
        """The cursor is on another block, or came among them: see to it if it stays there."""
        self._on_block.put_off(_RESTS_ON_BLOCK)

    def answered(self) -> None:
        """Something was answered, or dropped: what the panes lack now is asked for."""
        if not self._settling.is_set and not self._resting.is_set:
            self.ask_all()
        if not self._on_block.is_set:
            self._ask_block()

    def ask_all(self) -> None:
        """Ask everything that the panes lack."""
        self._settling.stop()
        self._resting.stop()
        self._requests.withdraw_stale()
        self._ask(self._state.lists_asked)
        for side in SIDES:
            self._ask(self._state.shares_asked(side))
        self._ask(self._state.evidence_asked)

    def _ask_block(self) -> None:
        """A block's tokens take passes of their own; who is not among them has not asked."""
        if self._reads_blocks():
            self._ask(self._state.block_asked)
            self._asked()

    def _ask(self, question: m.Request | None) -> None:
        if question is not None and self._state.is_lacking(question):
            assert isinstance(question, OF_PANES)
            self._requests.ask(question)
