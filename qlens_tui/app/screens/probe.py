"""Which features fire on a text, token by token: an explanation put to the test.

The user types a text; the model runs on it once. One feature is watched along the tokens, at
first the one under the table's cursor; for the token under the cursor the features of the layer
that fire on it most are listed, one step away with enter.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen

from qlens_tui.app.screens.prompt import Answer, Prompt
from qlens_tui.app.widgets.choice_list import ChoiceList
from qlens_tui.app.widgets.firing_tokens import FiringTokens
from qlens_tui.app.widgets.key_line import KeyLine
from qlens_tui.app.widgets.told_line import ToldLine
from qlens_tui.engine import messages as m
from qlens_tui.formats import number
from qlens_tui.text import token_label

if TYPE_CHECKING:
    from qlens_tui.app.screens.workbench import Workbench

_ESCAPE = re.compile(r"\\(?:([\\nrt])|x([0-9a-f]{2})|u([0-9a-f]{4})|U(0[0-9a-f]{7}))")
_NAMED = {"\\": "\\", "n": "\n", "r": "\r", "t": "\t"}
_HINT = r"a leading space counts; \n is a newline, \t a tab, \\ a backslash"
_LOADING = "the model is still loading: p tries again"


def ask_prompt(bench: Workbench, last: ProbeScreen | None = None) -> ProbeScreen | None:
    """Ask for a text and show what fires on it; `last` is the screen before, for its text.

    The screen that was opened, to be given the engine's answers; `last` where none was.
    """
    feature = bench.table.feature
    layer = feature[0] if feature is not None else bench.browsing.layer
    if bench.dialogue.ready is None:
        bench.notify("a text needs the model: it is still loading", severity="warning")
        return last
    if layer is None:
        bench.notify("go to a layer first: its features are tried on a text", severity="warning")
        return last

    def leave(found: tuple[int, int] | None) -> None:
        if found is not None:
            bench.browsing.go(*found)

    watched = feature[1] if feature is not None else None
    screen = ProbeScreen(bench, layer, watched, last.typed if last is not None else "")
    bench.app.push_screen(screen, leave)
    return screen


class ProbeScreen(ModalScreen[tuple[int, int] | None]):
    """A text's tokens, what one feature does on them, and what else fires."""

    DEFAULT_CSS = """
    ProbeScreen { align: center middle; background: transparent; }
    ProbeScreen > Vertical {
        width: 100%; max-width: 140; height: 90%; background: $surface;
        border: round $foreground 40%;
    }
    ProbeScreen Horizontal { height: 1fr; }
    ProbeScreen FiringTokens { width: 2fr; max-width: 50; height: 1fr; }
    ProbeScreen ChoiceList { width: 3fr; height: 1fr; max-height: 100%; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "leave", "Back"),
        Binding("p", "edit", "Edit the text"),
        # The list has the focus, and takes up and down.
        Binding("j,right", "token(1)", "Next token", priority=True),
        Binding("k,left", "token(-1)", "Token before", priority=True),
        Binding("n", "fires(1)", "Next token that the feature fires on"),
        Binding("N", "fires(-1)", "Token before that the feature fires on"),
        Binding("space", "watch", "Watch this feature along the text"),
    ]

    def __init__(self, workbench: Workbench, layer: int, feature: int | None, typed: str) -> None:
        super().__init__()
        self._bench = workbench
        self._layer, self._feature = layer, feature
        self.typed = typed
        """The text as it was typed, escapes and all."""
        self._probed: m.PromptFirings | None = None
        self._request: int | None = None

    def compose(self) -> ComposeResult:
        plain = self._bench.ascii
        with Vertical():
            yield ToldLine(ascii_only=plain)
            with Horizontal():
                yield FiringTokens(ascii_only=plain)
                yield ChoiceList(ascii_only=plain, nothing="")
            yield KeyLine(ascii_only=plain)

    def on_mount(self) -> None:
        self.query_one(ChoiceList).focus()
        self.query_one(KeyLine).tell(
            [("j/k", "token"), ("up/down", "feature"), ("enter", "open"), ("space", "watch"),
             ("p", "text"), ("n/N", "where it fires"), ("esc", "back")]
        )  # fmt: skip
        self._tell(f"what fires on a text, layer {self._layer}")
        self.action_edit()

    # What the engine says.

    def probed(self, request: int, event: m.PromptFirings) -> None:
        """The engine's answer to `request`; one to an older question is not shown."""
        if request != self._request or not self.is_attached:
            return
        before, self._probed, self._request = self._probed, event, None
        self.query_one(FiringTokens).tell(event)
        self._tell(_summary(event))
        self._list(keep=before is not None and before.ids == event.ids)

    def doing(self, text: str) -> None:
        """What the engine does before it can answer."""
        if self._request is not None and self.is_attached:
            self._tell(text, "pane--waiting")

    def failed(self, text: str, request: int | None = None) -> None:
        """The engine cannot answer what was asked last; `request`, if it says which."""
        of_it = request in (None, self._request)
        if self._request is not None and of_it and self.is_attached:
            self._request = None
            self._tell(f"! {text}", "pane--problem")
            self._list()

    # Keys.

    def action_edit(self) -> None:
        prompt = Prompt(
            f"which features of layer {self._layer} fire on",
            value=self.typed,
            hint=_HINT,
            check=lambda text: None if text else "type a text, and enter",
            ascii_only=self._bench.ascii,
        )
        self.app.push_screen(prompt, self._typed)

    def _typed(self, answer: Answer | None) -> None:
        if answer is not None:
            self.typed = answer.text
            self._probed = None
            self.query_one(FiringTokens).tell(None)
            self._ask()
        elif self._probed is None and self._request is None:
            self.dismiss(None)

    def _ask(self) -> None:
        if self._bench.dialogue.ready is None:
            self._tell(f"! {_LOADING}", "pane--problem")
        else:
            self._request = self._bench.dialogue.inquiry.ask(
                m.ReadPrompt(layer=self._layer, text=meant(self.typed), feature=self._feature)
            )
            self._tell("computing", "pane--waiting")
        self._list(keep=True)

    def action_watch(self) -> None:
        chosen = self._chosen()
        if chosen is not None:
            self._feature = chosen
            self._ask()

    def action_token(self, by: int) -> None:
        self.query_one(FiringTokens).move(by)
        self._list()

    def action_fires(self, by: int) -> None:
        self.query_one(FiringTokens).seek(by)
        self._list()

    def action_leave(self) -> None:
        self.dismiss(None)

    def on_choice_list_taken(self, event: ChoiceList.Taken) -> None:
        event.stop()
        chosen = self._chosen()
        if chosen is not None:
            self.dismiss((self._layer, chosen))

    # What is shown.

    def _chosen(self) -> int | None:
        """The feature under the list's cursor."""
        at = self.query_one(ChoiceList).cursor
        return None if at is None else self._here()[0][at]

    def _here(self) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """What fires on the token under the cursor."""
        if self._probed is None:
            return (), ()
        firing = self._probed.strongest[self.query_one(FiringTokens).cursor]
        return firing.features, firing.activations

    def _list(self, *, keep: bool = False) -> None:
        features, activations = self._here()
        names = [f"{self._layer}:{feature}" for feature in features]
        width = max([7, *map(len, names)])
        labels = self._bench.dialogue.labels([(self._layer, feature) for feature in features])
        lines = [
            f"{'=' if self._probed and feature == self._probed.feature else ' '}"
            f"{name:>{width}} {number(activation):>8}  "
            f"{self._label(labels.get((self._layer, feature), ()))}"
            for feature, name, activation in zip(features, names, activations, strict=True)
        ]
        chosen = self.query_one(ChoiceList)
        chosen.say_nothing("no feature fires on this token" if self._probed is not None else "")
        heading = f" {'feature':>{width}} {'fires':>8}  promotes" if lines else ""
        chosen.set_choices(lines, heading=heading, cursor=None if keep else 0)
        chosen.styles.height = "1fr"

    def _label(self, tokens: tuple[str, ...]) -> str:
        return " ".join(token_label(token, ascii_only=self._bench.ascii) for token in tokens)

    def _tell(self, text: str, style: str = "pane--title") -> None:
        self.query_one(ToldLine).tell(text, style)


def meant(typed: str) -> str:
    r"""The text that a typed line stands for: `\n`, `\t`, `\\`, `\x1b`, `\u202e` are read."""

    def character(found: re.Match[str]) -> str:
        code = found[2] or found[3] or found[4]
        if code is None:
            return _NAMED[found[1]]
        return chr(int(code, 16)) if int(code, 16) < 0x110000 else found[0]

    return _ESCAPE.sub(character, typed)


def _summary(of: m.PromptFirings) -> str:
    """What the feature does on the text, in one line."""
    count = f"{len(of.ids):,} token{'s' if len(of.ids) != 1 else ''}"
    count += ", the first put in front" if of.bos else ""
    if of.activations is None:
        return f"what fires on {count}, layer {of.layer}"
    fired = sum(activation > 0 for activation in of.activations)
    if not fired:
        return f"{of.layer}:{of.feature} is silent on {count}"
    return (
        f"{of.layer}:{of.feature} fires on {fired:,} of {count}, "
        f"at most {number(max(of.activations))}"
    )
