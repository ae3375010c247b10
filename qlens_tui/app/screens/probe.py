"""Which features fire on a text, token by token: a way to test an explanation.

The user types a text; the model runs on it once. One feature's activation is shown at every token,
at first that of the feature under the table's cursor. For the token under the cursor, the features
of the layer that fire on it most strongly are listed, with the tokens of their key's list; enter
goes to one of them.
"""

from __future__ import annotations

import re
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical

from qlens_tui.app.asked import Asked
from qlens_tui.app.requests import Requests
from qlens_tui.app.screens.mark_keys import MarkKeys
from qlens_tui.app.screens.prompt import Answer, Prompt
from qlens_tui.app.screens.results_screen import KEYS, SIGNS, ActsOnOne, ResultsScreen
from qlens_tui.app.state import State
from qlens_tui.app.views import Listed
from qlens_tui.app.widgets.choice_list import ChoiceList
from qlens_tui.app.widgets.firing_tokens import FiringTokens
from qlens_tui.app.widgets.key_line import KeyLine
from qlens_tui.app.widgets.title_line import TitleLine
from qlens_tui.engine import messages as m
from qlens_tui.formats import number
from qlens_tui.table.feature_labels import labels
from qlens_tui.table.row_reader import RowReader
from qlens_tui.text import token_label

_ESCAPE = re.compile(r"\\(?:([\\nrt])|x([0-9a-f]{2})|u([0-9a-f]{4})|U(0[0-9a-f]{7}))")
_NAMED = {"\\": "\\", "n": "\n", "r": "\r", "t": "\t"}
_HINT = r"a leading space counts; \n is a newline, \t a tab, \\ a backslash"


class ProbeScreen(ResultsScreen):
    """A text's tokens, one feature's activations on them, and the other features that fire."""

    DEFAULT_CSS = """
    ProbeScreen > Vertical {
        width: 100%; max-width: 140; height: 90%; background: $surface;
        border: round $border-blurred;
    }
    ProbeScreen Horizontal { height: 1fr; }
    ProbeScreen FiringTokens { width: 2fr; max-width: 50; height: 1fr; }
    ProbeScreen ChoiceList { width: 3fr; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "leave", "Back"),
        Binding("p", "edit", "Edit the text"),
        # The list has the focus and handles up and down.
        Binding("j,right", "token(1)", "Next token", priority=True),
        Binding("k,left", "token(-1)", "Previous token", priority=True),
        Binding("n", "fires(1)", "Next token that the feature fires on"),
        Binding("N", "fires(-1)", "Previous token that the feature fires on"),
        Binding("space", "watch", "Watch this feature along the text"),
        *KEYS,
    ]

    def __init__(
        self,
        layer: int,
        feature: int | None,
        typed: str,
        state: State,
        requests: Requests,
        reader: RowReader,
        mark_keys: MarkKeys,
        acts: ActsOnOne,
        *,
        ascii_only: bool,
    ) -> None:
        """Show `feature` of `layer` on a text; the last text is offered for editing."""
        super().__init__()
        self._layer, self._feature = layer, feature
        self.typed = typed
        """The text as it was typed, with escapes."""
        self._answers = state
        self._asked = Asked(state, requests)
        self._reader = reader
        self.mark_keys = mark_keys
        self.acts = acts
        self._ascii = ascii_only
        self._probed: m.PromptFirings | None = None

    def compose(self) -> ComposeResult:
        plain = self._ascii
        with Vertical():
            yield TitleLine(ascii_only=plain)
            with Horizontal():
                yield FiringTokens(ascii_only=plain)
                yield ChoiceList(ascii_only=plain, nothing="")
            yield KeyLine(ascii_only=plain)

    def on_mount(self) -> None:
        self.query_one(ChoiceList).focus()
        self.query_one(KeyLine).tell(
            [("j/k", "token"), ("up/down", "feature"), ("enter", "open"), ("space", "watch"),
             ("p", "text"), ("n/N", "where it fires"), ("T", "as table"), ("s x t L m", "mark"),
             ("J K A", "select"), ("esc", "back")]
        )  # fmt: skip
        self._tell(f"what fires on a text, layer {self._layer}")
        self.action_edit()

    # Answers of the engine.

    def answered(self) -> None:
        """Show the answer to the last request, or its progress, or why it failed."""
        asked = self._asked
        if asked.question is None or not self.is_attached:
            return
        asked.follow()
        found, problem = asked.answer, asked.problem
        if isinstance(found, m.PromptFirings):
            before, self._probed = self._probed, found
            asked.put(None)
            self.query_one(FiringTokens).tell(found)
            self._tell(_summary(found))
            self._list(keep=before is not None and before.ids == found.ids)
        elif problem:
            asked.put(None)
            self._tell(f"! {problem}", "pane--problem")
            self._list()
        else:
            ellipsis = "..." if self._ascii else "…"
            self._tell(f"{asked.doing()}{ellipsis}", "pane--waiting")

    # Keys.

    def action_edit(self) -> None:
        prompt = Prompt(
            f"which features of layer {self._layer} fire on",
            value=self.typed,
            hint=_HINT,
            check=lambda text: None if text else "type a text, and enter",
            ascii_only=self._ascii,
        )
        self.app.push_screen(prompt, self._typed)

    def _typed(self, answer: Answer | None) -> None:
        if answer is not None:
            self.typed = answer.text
            self._probed = None
            self.query_one(FiringTokens).tell(None)
            self._ask()
        elif self._probed is None and self._asked.question is None:
            self.dismiss(None)

    def _ask(self) -> None:
        text = meant(self.typed)
        self._asked.put(m.ReadPrompt(layer=self._layer, text=text, feature=self._feature))
        self._list(keep=True)
        self.answered()

    def action_watch(self) -> None:
        if self.chosen is not None:
            _, self._feature = self.chosen
            self._ask()

    def action_token(self, by: int) -> None:
        self.query_one(FiringTokens).move(by)
        self._list()

    def action_fires(self, by: int) -> None:
        self.query_one(FiringTokens).seek(by)
        self._list()

    # What is shown.

    def listed(self) -> Listed:
        if self._probed is None:
            return Listed("", ())
        at = self.query_one(FiringTokens).cursor
        token = self._probed.tokens[at]
        words = f"what fires on {token.strip(' ') or token} (token {at + 1})"
        return Listed(words, tuple((self._layer, feature) for feature in self._here()[0]))

    def marks_changed(self) -> None:
        if self.is_attached:
            self._list(keep=True)

    def _here(self) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """List what fires on the token under the cursor."""
        if self._probed is None:
            return (), ()
        firing = self._probed.strongest[self.query_one(FiringTokens).cursor]
        return firing.features, firing.activations

    def _list(self, *, keep: bool = False) -> None:
        numbers, activations = self._here()
        features = [(self._layer, feature) for feature in numbers]
        names = [f"{layer}:{feature}" for layer, feature in features]
        width = max([7, *map(len, names)])
        opened = self._answers.opened
        named = labels(features, self._reader.frames(opened.known), opened.texts, "key")
        watched = self._layer, None if self._probed is None else self._probed.feature
        lines = [
            f"{'=' if feature == watched else ' '}{name:>{width}} {signs}{number(activation):>8}  "
            f"{self._label(named.get(feature, ()))}"
            for feature, name, signs, activation in zip(
                features, names, self.signs(features), activations, strict=True
            )
        ]
        chosen = self.query_one(ChoiceList)
        chosen.say_nothing("no feature fires on this token" if self._probed is not None else "")
        heading = f" {'feature':>{width}} {' ' * SIGNS}{'fires':>8}  fires on" if lines else ""
        chosen.set_choices(lines, heading=heading, cursor=None if keep else 0)
        chosen.styles.height = "1fr"

    def _label(self, tokens: tuple[str, ...]) -> str:
        return " ".join(token_label(token, ascii_only=self._ascii) for token in tokens)

    def _tell(self, text: str, style: str = "pane--title") -> None:
        self.query_one(TitleLine).tell(text, style)


def meant(typed: str) -> str:
    r"""The text of a typed line, with `\n`, `\t`, `\\`, `\x1b`, `\u202e` replaced."""

    def character(found: re.Match[str]) -> str:
        code = found[2] or found[3] or found[4]
        if code is None:
            return _NAMED[found[1]]
        return chr(int(code, 16)) if int(code, 16) < 0x110000 else found[0]

    return _ESCAPE.sub(character, typed)


def _summary(of: m.PromptFirings) -> str:
    """A summary of the feature's activations on the text, in one line."""
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
