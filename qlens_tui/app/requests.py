"""What was asked of the engine and what it answered: open requests, jobs, kept answers.

Answers are kept by everything they depend on (feature, settings, list length), so that going
back to a feature, or taking a switch back, shows it at once. No Textual here and no engine:
whoever holds an `Inquiry` gives it a way to send.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from qlens_tui.engine import messages as m
from qlens_tui.formats import duration

Answer = TypeVar("Answer")
FeatureKey = tuple[int, int, m.Settings, int | None]
"""Layer, feature, settings, and tokens per list."""

_KEPT = 512
_SEARCHES = 16


@dataclass
class Job:
    """Long work that the engine does; `total` 0: nobody knows how much."""

    id: int
    name: str
    text: str = "waiting"
    done: int = 0
    total: int = 0
    eta: float | None = None

    @property
    def progress(self) -> str:
        """What it is doing, how far it is, how long it will take."""
        share = f" {self.share}" if self.total else ""
        left = f", {duration(self.eta)} left" if self.eta is not None else ""
        return f"{self.text}{share}{left}"

    @property
    def share(self) -> str:
        """How far it is, or else what it is doing."""
        return f"{100 * self.done / self.total:.0f}%" if self.total else self.text

    def update(self, event: m.Status) -> None:
        """Take over what the engine says of it."""
        self.text, self.done, self.total, self.eta = event.text, event.done, event.total, event.eta


class Kept(Generic[Answer]):
    """The answers last looked at."""

    def __init__(self, most: int = _KEPT) -> None:
        self._most = most
        self._answers: OrderedDict[Hashable, Answer] = OrderedDict()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._answers

    def get(self, key: Hashable) -> Answer | None:
        """The answer to a question, if it is still kept."""
        found = self._answers.get(key)
        if found is not None:
            self._answers.move_to_end(key)
        return found

    def put(self, key: Hashable, answer: Answer) -> None:
        """Keep an answer; the one looked at longest ago goes."""
        self._answers[key] = answer
        self._answers.move_to_end(key)
        while len(self._answers) > self._most:
            self._answers.popitem(last=False)

    def clear(self) -> None:
        self._answers.clear()


class Inquiry:
    """Requests under way and answers kept, of one session after another."""

    def __init__(self, send: Callable[[m.Request], int]) -> None:
        self._send = send
        self.asked: dict[int, m.Request] = {}
        self.jobs: dict[int, Job] = {}
        self.signatures: Kept[m.Signature] = Kept()
        self.paths: Kept[m.Paths] = Kept()
        self.evidence: Kept[m.Evidence] = Kept()
        self.favoured: Kept[m.BlockTokensReady] = Kept()
        self.searches: Kept[m.Found] = Kept(_SEARCHES)

    def ask(self, request: m.Request, job: str | None = None) -> int:
        """Send a request, listed under jobs where `job` names it."""
        number = self._send(request)
        self.asked[number] = request
        if job is not None:
            self.jobs[number] = Job(number, job)
        return number

    def ask_once(self, request: m.Request, job: str | None = None) -> None:
        """Ask, unless that is under way already."""
        if request not in self.asked.values():
            self.ask(request, job)

    def answered(self, number: int) -> m.Request | None:
        """A request is done with; which one it was."""
        self.jobs.pop(number, None)
        return self.asked.pop(number, None)

    def cancel(self, number: int) -> None:
        """Stop a request; what it finished is kept where it lies."""
        self._send(m.Cancel(target=number))

    def stop_what_is_stale(self, wanted: FeatureKey | None) -> None:
        """Passes for another feature, or other blocks, would keep the new ones waiting."""
        for number, request in list(self.asked.items()):
            match request:
                case m.ComputeSignature() | m.ComputePaths():
                    asked = request.layer, request.feature, request.settings, request.k
                    stale = asked != wanted
                case m.ComputeBlockTokens():
                    stale = wanted is None or (request.layer, request.feature) != wanted[:2]
                case m.ComputeEvidence():
                    stale = wanted is None or request.layer != wanted[0]
                case _:
                    continue
            if stale:
                self.answered(number)
                self.cancel(number)

    def forget(self) -> None:
        """The engine is gone: nothing that was asked will be answered.

        Nor does what a search found hold in the next session: it may have other layers.
        """
        self.searches.clear()
        self.asked.clear()
        self.jobs.clear()

    def forget_answers(self) -> None:
        """What was answered would now be answered in another way."""
        self.signatures.clear()
        self.paths.clear()
        self.evidence.clear()
        self.favoured.clear()
        self.searches.clear()
