"""A list of the engine's long work, and a key that stops it."""

from __future__ import annotations

from textual.timer import Timer

from qlens_tui.app.requests import Requests
from qlens_tui.app.screens.choice import Choice
from qlens_tui.app.state import State
from qlens_tui.text import visible

_SECONDS = 0.5


class Jobs(Choice):
    """The jobs, kept up to date; `d` stops the one under the cursor."""

    def __init__(self, state: State, requests: Requests, *, ascii_only: bool) -> None:
        self._state = state
        self._requests = requests
        self._numbers: list[int] = []
        self._plain = ascii_only
        self._timer: Timer | None = None
        super().__init__(
            "jobs",
            self._job_lines(),
            nothing="no jobs running",
            keys=(("d", "cancel", self._cancel),),
            ascii_only=ascii_only,
        )

    def on_mount(self) -> None:
        self._timer = self.set_interval(_SECONDS, lambda: self.show(self._job_lines()))

    def _job_lines(self) -> list[str]:
        jobs, running = self._state.jobs, self._state.running
        self._numbers = [job.id for job in jobs]
        said = (f"{job.name}: {job.standing(running)}" for job in jobs)
        return [visible(line, ascii_only=self._plain) for line in said]

    def _cancel(self, _choice: Choice, index: int | None) -> None:
        if index is not None and index < len(self._numbers):
            self._requests.cancel(self._numbers[index])
