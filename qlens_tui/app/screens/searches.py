"""Searches over the workbench: features by token, what fires on a text, near-duplicates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from textual.screen import Screen

from qlens_tui.app.requests import Requests
from qlens_tui.app.screens.copying import Copying
from qlens_tui.app.screens.mark_keys import MarkKeys
from qlens_tui.app.screens.near_duplicates import NearDuplicates, Threshold
from qlens_tui.app.screens.pinning import Pinning
from qlens_tui.app.screens.probe import ProbeScreen
from qlens_tui.app.screens.prompt import Answer
from qlens_tui.app.screens.results_screen import ActsOnOne
from qlens_tui.app.screens.reverse_search import ReverseSearch, Sought
from qlens_tui.app.screens.steered import SteeredScreen
from qlens_tui.app.screens.token_prompt import TITLE, TokenPrompt
from qlens_tui.app.screens.waiting_prompt import open_when_possible
from qlens_tui.app.state import State
from qlens_tui.app.views import Feature, Listed
from qlens_tui.table.row_reader import RowReader


class Searches:
    """Opens the searches, each as it was left."""

    def __init__(
        self,
        state: State,
        requests: Requests,
        reader: RowReader,
        mark_keys: MarkKeys,
        pinning: Pinning,
        copying: Copying,
        *,
        go: Callable[[int, int], None],
        tabulate: Callable[[Listed], None],
        screen: Screen[Any],
        ascii_only: bool,
    ) -> None:
        """`go` shows a feature that was found, `tabulate` all of them in the table."""
        self._state = state
        self._requests = requests
        self._reader = reader
        self._mark_keys = mark_keys
        self._acts = ActsOnOne(pinning.of_result, copying.address_of)
        self._go = go
        self._tabulate = tabulate
        self._screen = screen
        self._ascii = ascii_only
        self.last: Sought | None = None
        self._typed = ""
        self._threshold = Threshold()

    def by_token(self) -> None:
        """Ask for tokens, then list their features; with nothing typed, repeat the last search."""
        opened = self._state.opened

        def why() -> str:
            if opened.completion is not None:
                return ""
            return self._waits("tokens")

        open_when_possible(self._screen, TITLE, why, self._ask_tokens, ascii_only=self._ascii)

    def _ask_tokens(self, typed: str) -> None:
        opened, layer = self._state.opened, self._state.layer
        completion, texts = opened.completion, opened.texts
        assert completion is not None
        assert texts is not None
        last = self.last if self.last is not None and self.last.fits(opened) else None
        prompt = TokenPrompt(completion, texts, last, value=typed, ascii_only=self._ascii)

        def search(answer: Answer | None) -> None:
            sought = None if answer is None else prompt.sought(answer, layer)
            if sought is not None:
                self._list(sought)

        self._screen.app.push_screen(prompt, search)

    def _list(self, sought: Sought) -> None:
        screen = ReverseSearch(
            sought, self._state, self._requests, self._reader, self._mark_keys, self._acts,
            ascii_only=self._ascii,
        )  # fmt: skip

        def leave(found: Feature | Listed | None) -> None:
            self.last = screen.sought
            self._leave(found)

        self._screen.app.push_screen(screen, leave)

    def by_text(self) -> None:
        """Ask for a text and show what fires on it, in the layer of the feature in sight."""

        def why() -> str:
            opened = self._state.opened
            if self._layer_in_sight is not None:
                return ""
            if not opened.known:
                return self._waits("features")
            return "go to a layer first: the text is tried on its features"

        title = "which features fire on"
        open_when_possible(self._screen, title, why, self._ask_text, ascii_only=self._ascii)

    def _waits(self, what: str) -> str:
        """What `what` waits for, in words."""
        opened = self._state.opened
        if opened.session is not None:
            return f"the {what} are being read"
        return f"the {what} come with the model: {opened.phase}"

    @property
    def _layer_in_sight(self) -> int | None:
        feature = self._state.feature
        return feature[0] if feature is not None else self._state.layer

    def _ask_text(self, typed: str) -> None:
        feature, layer = self._state.feature, self._layer_in_sight
        assert layer is not None
        screen = ProbeScreen(
            layer,
            feature[1] if feature is not None else None,
            typed or self._typed,
            self._state,
            self._requests,
            self._reader,
            self._mark_keys,
            self._acts,
            ascii_only=self._ascii,
        )

        def leave(found: Feature | Listed | None) -> None:
            self._typed = screen.typed
            self._leave(found)

        self._screen.app.push_screen(screen, leave)

    def near_duplicates(self) -> None:
        """List the features most like the one under the cursor, to mark them as one."""
        feature, opened = self._state.feature, self._state.opened
        if feature is None:
            self._screen.notify("there is no feature under the cursor")
            return
        if opened.operators(feature[0]) == "none":
            self._screen.notify(
                "near-duplicates are compared by operators, which are not built: B builds them",
                severity="warning",
            )
            return
        screen = NearDuplicates(
            feature, self._threshold, self._state, self._requests, self._reader, self._mark_keys,
            self._acts, ascii_only=self._ascii,
        )  # fmt: skip

        def leave(found: Feature | Listed | None) -> None:
            self._threshold = screen.threshold
            self._leave(found)

        self._screen.app.push_screen(screen, leave)

    def steered(self) -> None:
        """Steer the feature under the cursor, and show what rises."""
        feature = self._state.feature
        if feature is None:
            self._screen.notify("there is no feature under the cursor")
            return
        self._screen.app.push_screen(
            SteeredScreen(feature, self._state, self._requests, ascii_only=self._ascii)
        )

    def _leave(self, found: Feature | Listed | None) -> None:
        if isinstance(found, Listed):
            self._tabulate(found)
        elif found is not None:
            self._go(*found)
