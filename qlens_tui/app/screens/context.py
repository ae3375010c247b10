"""A context in its whole sample, with the feature's activation at every token."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical

from qlens_tui.app.asked import Asked
from qlens_tui.app.requests import Requests
from qlens_tui.app.screens.answer_screen import AnswerScreen
from qlens_tui.app.state import State
from qlens_tui.app.widgets.key_line import KeyLine
from qlens_tui.app.widgets.sample_text import SampleText
from qlens_tui.app.widgets.text_line import TextLine
from qlens_tui.engine import messages as m
from qlens_tui.formats import name_of_text

_AROUND = 4  # lines of border, title and keys


class ContextScreen(AnswerScreen[None]):
    """The sample of one context of a feature."""

    DEFAULT_CSS = """
    ContextScreen { align: center middle; background: transparent; }
    ContextScreen > Vertical {
        width: 100%; max-width: 110; height: auto; background: $surface;
        border: round $border-blurred;
    }
    ContextScreen.-ascii > Vertical { border: ascii $border-blurred; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter", "leave", "Back"),
        Binding("l,right", "token(1)", "Next token"),
        Binding("h,left", "token(-1)", "Previous token"),
        Binding("j,down", "line(1)", "Next line"),
        Binding("k,up", "line(-1)", "Previous line"),
        Binding("pagedown", "line(8)", "Lines further down", show=False),
        Binding("pageup", "line(-8)", "Lines further up", show=False),
        Binding("g,home", "token(-1000000)", "First token"),
        Binding("G,end", "token(1000000)", "Last token"),
        Binding("n", "fires(1)", "Next token that the feature fires on"),
        Binding("N", "fires(-1)", "Previous token that the feature fires on"),
    ]

    def __init__(
        self,
        of: m.Evidence,
        context: m.Context,
        state: State,
        requests: Requests,
        *,
        ascii_only: bool,
    ) -> None:
        """Open `context`, one of the contexts of the evidence `of`."""
        super().__init__()
        self._of, self._at = of, context.position
        self._asked = Asked(state, requests)
        self._ascii = ascii_only
        self._is_shown = False
        self._question = m.ReadSample(
            layer=of.layer, feature=of.feature, text=of.text.sha256, sample=context.sample
        )
        self.set_class(ascii_only, "-ascii")

    def compose(self) -> ComposeResult:
        with Vertical():
            yield TextLine(ascii_only=self._ascii)
            yield SampleText(ascii_only=self._ascii)
            yield KeyLine(ascii_only=self._ascii)

    def on_mount(self) -> None:
        self.query_one(KeyLine).tell(
            [("h/l", "token"), ("j/k", "line"), ("n/N", "where it fires"), ("esc", "back")]
        )
        self._asked.put(self._question)
        self.answered()

    def answered(self) -> None:
        """Show the sample, or what it waits for, or why there is none."""
        if self._is_shown or not self.is_attached:
            return
        self._asked.follow()
        of, found, problem = self._of, self._asked.answer, self._asked.problem
        if isinstance(found, m.SampleActivations):
            self._is_shown = True
            self.query_one(SampleText).tell(found, of.max_activation, self._at)
            self._fit()
            where = f"sample {found.sample:,} of {name_of_text(of.text)}"
            self._tell(f"{of.layer}:{of.feature} in {where}, at most {of.max_activation:.4g}")
        elif problem:
            self._tell(f"! {problem}", "pane--problem")
        else:
            ellipsis = "..." if self._ascii else "…"
            self._tell(f"{self._asked.doing()}{ellipsis}", "pane--waiting")

    def on_resize(self) -> None:
        self._fit()

    def _fit(self) -> None:
        """Make the text as high as the sample, if the screen is."""
        text = self.query_one(SampleText)
        room = self.size.height - _AROUND
        text.styles.height = max(1, min(text.needed(text.content_size.width), room))

    def action_token(self, by: int) -> None:
        self.query_one(SampleText).move(by)

    def action_line(self, by: int) -> None:
        self.query_one(SampleText).move_line(by)

    def action_fires(self, by: int) -> None:
        self.query_one(SampleText).seek(by)

    def action_leave(self) -> None:
        self.dismiss(None)

    def _tell(self, text: str, style: str = "pane--title") -> None:
        self.query_one(TextLine).tell(text, style)
