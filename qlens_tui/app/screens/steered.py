"""What steering a feature raises, as observed, beside what its lists say.

The feature is set to a strength behind neutral prefixes; the tokens that rise most are listed, each
with the lenses that have it among their best.
"""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical

from lens_core.lenses import LENSES
from qlens_tui.app.asked import Asked
from qlens_tui.app.requests import Requests
from qlens_tui.app.screens.answer_screen import AnswerScreen
from qlens_tui.app.state import State
from qlens_tui.app.views import Feature
from qlens_tui.app.widgets.choice_list import ChoiceList
from qlens_tui.app.widgets.key_line import KeyLine
from qlens_tui.app.widgets.title_line import TitleLine
from qlens_tui.app.widgets.wrapped_text import WrappedText
from qlens_tui.engine import messages as m
from qlens_tui.steered_words import how_set, listed_by
from qlens_tui.text import token_label, visible


class SteeredScreen(AnswerScreen[None]):
    """The tokens that rise when a feature is set to a strength."""

    DEFAULT_CSS = """
    SteeredScreen { align: center middle; background: transparent; }
    SteeredScreen > Vertical {
        width: 95%; max-width: 90; height: 90%; background: $surface;
        border: round $border-blurred;
    }
    SteeredScreen ChoiceList { max-height: 100%; }
    SteeredScreen.-ascii > Vertical { border: ascii $border-blurred; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,r,enter", "leave", "Back")]

    def __init__(
        self, feature: Feature, state: State, requests: Requests, *, ascii_only: bool
    ) -> None:
        super().__init__()
        self._feature = feature
        self._asked = Asked(state, requests)
        self._ascii = ascii_only
        self.set_class(ascii_only, "-ascii")

    def compose(self) -> ComposeResult:
        plain = self._ascii
        with Vertical():
            yield TitleLine(ascii_only=plain)
            yield ChoiceList(ascii_only=plain, nothing="steering")
            yield WrappedText(ascii_only=plain, id="told")
            yield KeyLine(ascii_only=plain)

    def on_mount(self) -> None:
        layer, feature = self._feature
        self.query_one(TitleLine).tell(f"observed: tokens that rise when {layer}:{feature} is set")
        self.query_one(KeyLine).tell([("j/k", "scroll"), ("esc", "back")])
        self.query_one(ChoiceList).focus()
        self._asked.put(m.Steer(layer=layer, feature=feature))
        self.answered()

    def answered(self) -> None:
        """Show what was observed, or what it waits for, or why there is nothing."""
        if not self.is_attached:
            return
        self._asked.follow()
        found, chosen = self._asked.answer, self.query_one(ChoiceList)
        if not isinstance(found, m.Steered):
            doing = self._asked.problem or self._asked.doing("steering")
            chosen.say_nothing(visible(doing, ascii_only=self._ascii))
            return
        chosen.say_nothing(visible(f"none: {found.reason}", ascii_only=self._ascii))
        heading, lines = self._lines(found)
        chosen.set_choices(lines, heading=heading, cursor=chosen.cursor or 0)
        chosen.styles.height = "1fr"
        if not found.reason:
            facts = f"+ {listed_by(found)}. The feature was {how_set(found)}"
            self.query_one("#told", WrappedText).tell(facts, "pane--title")

    def _lines(self, found: m.Steered) -> tuple[str, list[str]]:
        """A heading, and a line for each token with a `+` under each lens that lists it."""
        lists = found.lists or {}
        there = [lens for lens in LENSES if lens.name in lists]
        heading = "     " + " ".join(lens.short for lens in there) + "  token"
        lines = []
        for rank, (id, token) in enumerate(zip(found.ids, found.tokens, strict=True), 1):
            signs = (
                ("+" if id in lists[lens.name] else " ").center(len(lens.short)) for lens in there
            )
            label = token_label(token, ascii_only=self._ascii)
            lines.append(f"{rank:>3}  {' '.join(signs)}  {label}")
        return (heading, lines) if lines else ("", [])

    def action_leave(self) -> None:
        self.dismiss(None)
