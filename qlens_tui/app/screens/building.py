"""What `B` does: start whatever is missing, be it the engine, the session, operators or atlases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from textual.screen import Screen

from qlens_tui.app.layer_requests import LayerRequests
from qlens_tui.app.requests import Requests
from qlens_tui.app.state import State
from qlens_tui.engine import messages as m


class EngineControl(Protocol):
    """The engine process and the session in it."""

    @property
    def has_engine(self) -> bool:
        """Whether a process is running."""

    def restart(self) -> None:
        """Start a process, if none is running, and open the session in it."""

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
    ) -> None:
        self._state = state
        self._requests = requests
        self._layer_requests = layer_requests
        self._need_layer = need_layer
        self._engine = engine
        self._screen = screen

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
        else:
            self._requests.ask(m.Build(), "operators")
            self._screen.notify("building operators (w: jobs)")
