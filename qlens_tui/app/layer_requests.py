"""Requests for dictionaries and atlases: first for the layer in sight, later for the others."""

from __future__ import annotations

from collections.abc import Sequence

from qlens_tui.app.requests import Requests
from qlens_tui.app.state import State
from qlens_tui.engine import messages as m


class LayerRequests:
    """Asks the engine for dictionaries and atlases."""

    def __init__(self, state: State, requests: Requests) -> None:
        self._state = state
        self._opened = state.opened
        self._requests = requests

    def describe(self) -> None:
        """Request the description of all layers, the one in sight first."""
        if self._state.layer is not None:
            self._requests.ask(m.DescribeLayer(layer=self._state.layer))
        self._requests.ask(m.DescribeLayers())

    def need(self, layer: int) -> None:
        """A layer is about to be shown: request its description and its atlas."""
        found = self._opened.known.get(layer)
        if found is None:
            self._requests.ask(m.DescribeLayer(layer=layer))
        elif found.atlas is None and self._opened.operators(layer) != "none":
            self.tabulate(layer)
        for work in self._state.under_way:
            if isinstance(work.request, m.Tabulate) and work.request.in_sight:
                self.tabulate(work.request.layer)  # that layer is no longer in sight and can wait

    def tabulate(self, layer: int) -> None:
        """Request a layer's atlas: soon if the layer is in sight, else in the background."""
        if self._opened.session is None:
            return
        wanted = m.Tabulate(layer=layer, in_sight=layer == self._state.layer)
        for work in self._state.under_way:
            request = work.request
            if isinstance(request, m.Tabulate) and request.layer == layer and request != wanted:
                work.is_withdrawn = True  # the engine replaces it with this one
        self._opened.no_columns.pop(layer, None)
        self._requests.ask(wanted, f"atlas of layer {layer}")

    def tabulate_all(self) -> None:
        """Request the atlas of every layer."""
        for layer in self._opened.layers:
            self.tabulate(layer)

    def is_tabulating(self, layers: Sequence[int]) -> bool:
        """Whether an atlas of one of these layers is being made."""
        asked = (work.request for work in self._state.under_way)
        return any(isinstance(each, m.Tabulate) and each.layer in layers for each in asked)

    def is_describing(self, layer: int) -> bool:
        """Whether this layer's dictionary is being loaded."""
        return self._state.is_under_way(m.DescribeLayer(layer=layer))

    def lacks(self, layer: int) -> bool:
        """Whether a layer lacks something that is not being made."""
        found = self._opened.known.get(layer)
        if found is None or self._opened.operators(layer) == "none":
            return found is None
        return found.atlas is None and not self.is_tabulating([layer])
