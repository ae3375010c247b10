"""A request under way, its progress and the time left."""

from __future__ import annotations

from dataclasses import dataclass

from qlens_tui.engine import messages as m
from qlens_tui.formats import duration


@dataclass
class Work:
    """A request that the engine has not finished.

    A request with a `name` is listed among the jobs; `total` 0: unknown. `is_withdrawn`: the
    answer is no longer needed, but is kept if it still arrives.
    """

    id: int
    request: m.Request
    name: str = ""
    text: str = ""
    done: int = 0
    total: int = 0
    eta: float | None = None
    is_withdrawn: bool = False

    @property
    def doing(self) -> str:
        """The engine's progress text, the percentage and the time left; empty if unknown."""
        if not self.text:
            return ""
        share = f" {100 * self.done // self.total}%" if self.total else ""
        left = f", {duration(self.eta)} left" if self.eta is not None else ""
        return f"{self.text}{share}{left}"

    @property
    def progress(self) -> str:
        """The progress as shown in the list of jobs."""
        return self.doing or "waiting"

    def standing(self, running: Work | None) -> str:
        """How far it is and, if another job is running, that it waits for that one."""
        if running is None or running is self or not running.name:
            return self.progress
        done = f"{100 * self.done // self.total}% done, " if self.total and self.done else ""
        return f"{done}waits for {running.name}"

    @property
    def share(self) -> str:
        """The percentage, or else whether the engine has begun; at most 7 columns."""
        if self.total:
            return f"{100 * self.done // self.total}%"
        return "at work" if self.text else "waiting"

    @property
    def share_and_left(self) -> str:
        """The same with the time left, if it is known."""
        return self.share if self.eta is None else f"{duration(self.eta)} left, {self.share}"

    def rest(self) -> None:
        """A stage is there, and the next one waits for its turn."""
        self.text, self.done, self.total, self.eta = "", 0, 0, None

    def take(self, status: m.Status) -> None:
        """Record progress from the engine; requests that take counted passes become jobs."""
        self.text, self.done = status.text, status.done
        self.total, self.eta = status.total, status.eta
        if status.total and not self.name:
            self.name = passes_for(self.request)


def passes_for(request: m.Request) -> str:
    """The name of a job for a request that takes passes over the reference."""
    match request:
        case m.ComputeSignature():
            return f"lists of {request.layer}:{request.feature}"
        case m.ComputeComparison():
            return f"all blocks on for {request.layer}:{request.feature}"
        case m.ComputePaths():
            ahead = " ahead" if request.ahead else ""
            return f"{request.side} paths of {request.layer}:{request.feature}{ahead}"
        case m.ComputeBlockTokens():
            return f"block tokens of {request.layer}:{request.feature}"
        case m.ComputeEvidence():
            return f"contexts of layer {request.layer}"
        case _:
            return ""
