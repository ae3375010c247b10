"""All keys, from the real bindings, so that nothing here can be out of date."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen

from qlens_tui.text import fit
from qlens_tui.widgets.line_pane import Line, LinePane, fitted, line

_NAMES = {
    "plus": "+", "equals_sign": "=", "minus": "-", "colon": ":", "slash": "/", "space": "space",
    "question_mark": "?", "pagedown": "pgdn", "pageup": "pgup",
}  # fmt: skip


def keys_of(binding: Binding) -> str:
    """The keys of a binding as a person writes them."""
    return " ".join(_NAMES.get(key, key) for key in binding.key.split(","))


def bindings_of(bindings: Iterable[BindingType]) -> Iterator[Binding]:
    """The bindings of a class, however they were written down."""
    for binding in bindings:
        yield binding if isinstance(binding, Binding) else Binding(*binding)


class _Keys(LinePane):
    def __init__(
        self, sections: Sequence[tuple[str, Sequence[Binding]]], *, ascii_only: bool
    ) -> None:
        super().__init__(ascii_only=ascii_only)
        self._sections = sections

    def lay_out(self, width: int, height: int) -> tuple[Sequence[Line], Sequence[Line]]:
        body: list[Line] = []
        for title, bindings in self._sections:
            body.append(fitted(line((f" {title}", "pane--title")), width))
            for binding in bindings:
                text = f"   {fit(keys_of(binding), 18)} {binding.description}"
                body.append(fitted(line(text), width, self.ellipsis))
            body.append(())
        return [], body


class Help(ModalScreen[None]):
    """What every key does, by pane; escape or `?` closes it."""

    DEFAULT_CSS = """
    Help { align: center middle; background: transparent; }
    Help > Vertical {
        width: 76; max-width: 95%; height: 90%; background: $surface;
        border: round $foreground 40%;
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark", "leave", "Back"),
        Binding("j", "scroll(1)", "Down", show=False),
        Binding("k", "scroll(-1)", "Up", show=False),
    ]

    def __init__(
        self, sections: Sequence[tuple[str, Sequence[Binding]]], *, ascii_only: bool = False
    ) -> None:
        super().__init__()
        self._sections, self._ascii = sections, ascii_only

    def compose(self) -> ComposeResult:
        with Vertical():
            yield _Keys(self._sections, ascii_only=self._ascii)

    def on_mount(self) -> None:
        self.query_one(_Keys).focus()

    def action_scroll(self, by: int) -> None:
        self.query_one(_Keys).action_scroll(by)

    def action_leave(self) -> None:
        self.dismiss()
