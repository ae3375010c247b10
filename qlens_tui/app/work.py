"""A request under way: what the engine does for it, how far that is, how long it will take."""

from __future__ import annotations

from dataclasses import dataclass

from qlens_tui.engine import messages as m
from qlens_tui.formats import duration


@dataclass
class Work:
    """A request that the engine has not dealt with.

    `name`, where it is listed among the jobs; `total` 0: nobody knows how much it is.
    `is_withdrawn`: nobody waits for the answer, which is kept if it comes all the same.
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
        """What the engine does for it, how far it is, how long it will take; empty if unknown."""
        if not self.text:
            return ""
        share = f" {100 * self.done // self.total}%" if self.total else ""
        left = f", {duration(self.eta)} left" if self.eta is not None else ""
        return f"{self.text}{share}{left}"

    @property
    def progress(self) -> str:
        """As a job says it."""
        return self.doing or "waiting"

    @property
    def share(self) -> str:
        """How far it is, or else what is done for it."""
        return f"{100 * self.done // self.total}%" if self.total else self.text or "waiting"

    def take(self, status: m.Status) -> None:
        """Take over what the engine says of it; passes that are counted are listed as jobs."""
        self.text, self.done = status.text, status.done
        self.total, self.eta = status.total, status.eta
        if status.total and not self.name:
            self.name = passes_for(self.request)


def passes_for(request: m.Request) -> str:
    """What passes over the reference are made for, where a request takes some."""
    match request:
        case m.ComputeSignature():
            return f"lists of {request.layer}:{request.feature}"
        case m.ComputePaths():
            return f"{request.side} paths of {request.layer}:{request.feature}"
        case m.ComputeBlockTokens():
            return f"block tokens of {request.layer}:{request.feature}"
        case m.ComputeEvidence():
            return f"contexts of layer {request.layer}"
        case _:
            return ""
