"""The layers that have a dictionary, next to the table, with the current one marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from textual import events
from textual.message import Message

from qlens_tui.app.widgets.line_pane import Line, LinePane, fitted, line


class LayerColumn(LinePane, can_focus=False):
    """One line per layer, and one for all; `h` and `l` move in it from the table."""

    DEFAULT_CSS = """
    LayerColumn { width: 9; }
    LayerColumn > .layers--here { text-style: bold reverse; }
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {"layers--here"}

    class LayerChosen(Message):
        """The user chose this layer; `None` for all."""

        def __init__(self, layer: int | None) -> None:
            super().__init__()
            self.layer = layer

    def __init__(self, *, ascii_only: bool = False, id: str | None = None) -> None:
        super().__init__(ascii_only=ascii_only, id=id)
        self._layers: tuple[int | None, ...] = ()
        self._here: int | None = None
        self._stars: Mapping[int, int] = {}

    def tell(
        self, layers: Sequence[int | None], here: int | None, stars: Mapping[int, int]
    ) -> None:
        """Show these layers (`None`: all of them), and how many stars are in each."""
        self._layers, self._here, self._stars = tuple(layers), here, dict(stars)
        self.redraw()
        if here in self._layers:
            self.show_line(self._layers.index(here))

    def lay_out(self, width: int, height: int) -> tuple[Sequence[Line], Sequence[Line]]:
        body = []
        for layer in self._layers:
            name = "all" if layer is None else str(layer)
            stars = sum(self._stars.values()) if layer is None else self._stars.get(layer, 0)
            shown = f"{'*' if stars else ''}{stars or ''}"
            text = f"{'>' if layer == self._here else ' '}{name:>3} {shown:<4}"
            style = "layers--here" if layer == self._here else ""
            body.append(fitted(line((text[: width - 1], style), " "), width, ""))
        return [fitted(line((" layer", "pane--strong")), width, "")], body

    def on_click(self, event: events.Click) -> None:
        place = event.get_content_offset(self)
        if place is not None and 0 < place.y <= len(self._layers) - self.top:
            self.post_message(self.LayerChosen(self._layers[place.y - 1 + self.top]))
