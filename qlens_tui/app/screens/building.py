"""What `B` does: start what is missing (the engine, the session, operators or atlases).

Building operators may take hours, so time and disk space are shown first, with a question.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from textual.screen import Screen

from qlens_tui.app.layer_requests import LayerRequests
from qlens_tui.app.requests import Requests
from qlens_tui.app.screens.choice import Choice
from qlens_tui.app.state import State
from qlens_tui.engine import messages as m
from qlens_tui.formats import duration, in_bytes


class EngineControl(Protocol):
    """The engine process and the session in it."""

    @property
    def has_engine(self) -> bool:
        """Whether a process is running."""

    def restart(self) -> None:
        """Start a process if none is running, and open the session in it."""

    def reopen(self) -> None:
        """Open the session again."""


class Building:
    """Starts what is missing."""

    def __init__(
        self,
        state: State,
        requests: Requests,
        layer_requests: LayerRequests,
        *,
        need_layer: Callable[[int], None],
        engine: EngineControl,
        screen: Screen[Any],
        ascii_only: bool,
    ) -> None:
        self._state = state
        self._requests = requests
        self._layer_requests = layer_requests
        self._need_layer = need_layer
        self._engine = engine
        self._screen = screen
        self._ascii = ascii_only

    def start(self) -> None:
        """Start the first thing that is missing."""
        opened, layer = self._state.opened, self._state.layer
        if not self._engine.has_engine:
            self._engine.restart()
        elif self._requests.opening is not None:
            self._screen.notify("the model is still loading", severity="warning")
        elif opened.session is None:
            self._engine.reopen()
        elif layer is not None and self._layer_requests.lacks(layer):
            self._need_layer(layer)
        elif opened.session.operators == "built":
            self._layer_requests.tabulate_all()
            self._screen.notify("operators are built; computing every layer's atlas (w: jobs)")
        elif self._state.is_under_way(m.Build()):
            self._screen.notify("operators are already being built (w: jobs)")
        else:
            self._requests.ask(m.PlanBuild(), "build plan")
            self._screen.notify("working out how long a build takes")

    def confirm(self, plan: m.BuildFacts) -> None:
        """Show what a build takes, and start it if the user agrees."""

        def chosen(index: int | None) -> None:
            if index == 0:
                self._requests.ask(m.Build(), "operators")
                self._screen.notify("building operators (w: jobs)")

        time = "time not known" if plan.seconds is None else f"about {duration(plan.seconds)}"
        disk = f"{in_bytes(plan.bytes_on_disk)} on disk"
        most = f"{in_bytes(plan.bytes_while_building)} while building"
        begun = f", {plan.passes_done / plan.passes:.0%} done before" if plan.passes_done else ""
        choice = Choice(
            "build operators for every feature of this model?",
            [f"build: {time} on {plan.device}, {disk}, {most}{begun}", "not now"],
            ascii_only=self._ascii,
        )
        self._screen.app.push_screen(choice, chosen)
