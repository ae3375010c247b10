"""Near-duplicates of a feature: chosen by a threshold on the cosine, and marked as one.

What is over the threshold is selected, without the feature itself unless asked for; one key marks
all of it in one edit, which one undo takes back.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import floor
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical

from qlens_tui.app.asked import Asked
from qlens_tui.app.requests import Requests
from qlens_tui.app.screens.mark_keys import MarkKeys
from qlens_tui.app.screens.results_screen import (
    OF_ONE,
    PALETTE,
    REPLAY,
    SIGNS,
    TABULATE,
    ActsOnOne,
    ResultsScreen,
)
from qlens_tui.app.state import State
from qlens_tui.app.views import Feature, Listed
from qlens_tui.app.widgets.choice_list import ChoiceList
from qlens_tui.app.widgets.key_line import KeyLine
from qlens_tui.app.widgets.threshold_line import ThresholdLine
from qlens_tui.app.widgets.title_line import TitleLine
from qlens_tui.app.widgets.wrapped_text import WrappedText
from qlens_tui.engine import messages as m
from qlens_tui.table.feature_labels import labels
from qlens_tui.table.row_reader import RowReader
from qlens_tui.text import token_label, visible

_NEXT: Mapping[m.Likeness, m.Likeness] = {"both": "key", "key": "value", "value": "both"}
_WORDS: Mapping[m.Likeness, str] = {
    "both": "fire on and promote the same",
    "key": "fire on the same",
    "value": "promote the same",
}
_STEP = 0.01
_USUAL, _FEW = 0.7, 3
"""The threshold at first; if no feature is so near, that of the nearest few."""
_LINES = 200  # features that are listed
_UNASKED = 100  # features that are marked without asking
_TOKENS = {"both": 3, "key": 6, "value": 6}


@dataclass(frozen=True)
class Threshold:
    """What is compared, and the least cosine: kept from one feature to the next.

    Until the user sets it, `least` is `None`: each feature's own, `starting_at`.
    """

    likeness: m.Likeness = "both"
    least: float | None = None


def starting_at(cosines: Sequence[float]) -> float:
    """The threshold for a feature with these nearest ones, in whole hundredths."""
    if not cosines or cosines[0] >= _USUAL:
        return _USUAL
    last = cosines[min(_FEW, len(cosines)) - 1]
    return max(0.0, floor(last / _STEP) * _STEP)


class NearDuplicates(ResultsScreen):
    """The features most like one, and the threshold that selects some of them.

    `threshold` is as the user left it.
    """

    DEFAULT_CSS = """
    NearDuplicates > Vertical {
        width: 95%; max-width: 120; height: 90%; background: $surface;
        border: round $border-blurred;
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "leave", "Back"),
        Binding("h,left", "threshold(-1)", "Lower threshold"),
        Binding("l,right", "threshold(1)", "Higher threshold"),
        Binding("space", "cut", "Cut here", tooltip="Select down to this feature"),
        Binding(
            "tab", "likeness", "Compare", priority=True,
            tooltip="Compare what they fire on, what they promote, or both",
        ),
        Binding("a", "itself", "With itself", tooltip="Select the feature itself too, or not"),
        Binding("s", "mark('star')", "Star", tooltip="Star all that are selected, or unstar them"),
        Binding("x", "mark('reject')", "Reject", tooltip="Reject all selected, or undo that"),
        Binding("t", "mark('tag')", "Tag", tooltip="Tag all that are selected, or remove a tag"),
        Binding("L", "mark('label')", "Label", tooltip="Label all that are selected"),
        TABULATE,
        *OF_ONE,
        *REPLAY,
        PALETTE,
    ]  # fmt: skip

    def __init__(
        self,
        feature: Feature,
        threshold: Threshold,
        state: State,
        requests: Requests,
        reader: RowReader,
        mark_keys: MarkKeys,
        acts: ActsOnOne,
        *,
        ascii_only: bool,
    ) -> None:
        super().__init__()
        self.threshold = threshold
        self.mark_keys = mark_keys
        self.acts = acts
        self._feature = feature
        self._answers = state
        self._search = Asked(state, requests)
        self._reader = reader
        self._ascii = ascii_only
        self._with_itself = False
        self._asked = ""
        self._found: m.Resembling | None = None

    def compose(self) -> ComposeResult:
        plain = self._ascii
        with Vertical():
            yield TitleLine(ascii_only=plain)
            yield ThresholdLine(ascii_only=plain)
            yield ChoiceList(ascii_only=plain, nothing="comparing features")
            yield WrappedText(ascii_only=plain, id="told")
            yield KeyLine(ascii_only=plain)

    def on_mount(self) -> None:
        self.query_one(ChoiceList).focus()
        self._compare()

    def _compare(self) -> None:
        layer, feature = self._feature
        words = f"features like {layer}:{feature}: {_WORDS[self.threshold.likeness]}"
        self.query_one(TitleLine).tell(words)
        self._found = None
        self._search.put(
            m.FindResembling(layer=layer, feature=feature, likeness=self.threshold.likeness)
        )
        self.answered()

    def answered(self) -> None:
        if not self.is_attached or self._found is not None:
            return
        self._search.follow()
        found = self._search.answer
        if isinstance(found, m.Resembling):
            self._found = found
            nothing = f"{found.reason} (tab: compare otherwise)" if found.reason else "no others"
            self.query_one(ChoiceList).say_nothing(visible(nothing, ascii_only=self._ascii))
        else:
            doing = self._search.problem or self._search.doing("comparing features")
            self.query_one(ChoiceList).say_nothing(visible(doing, ascii_only=self._ascii))
        self._show(cursor=0)

    def marks_changed(self) -> None:
        if self.is_attached:
            self._show()

    # What is selected.

    @property
    def _cosines(self) -> tuple[float, ...]:
        return () if self._found is None else self._found.cosines

    @property
    def least(self) -> float:
        """The threshold that is shown."""
        least = self.threshold.least
        return starting_at(self._cosines) if least is None else least

    @property
    def _count(self) -> int:
        """How many of the features are over the threshold."""
        return bisect_right(self._cosines, -self.least, key=lambda cosine: -cosine)

    @property
    def selected(self) -> tuple[Feature, ...]:
        found = () if self._found is None else self._found.features[: self._count]
        itself = (self._feature,) if self._with_itself else ()
        return (*itself, *((self._feature[0], feature) for feature in found))

    def listed(self) -> Listed:
        found = () if self._found is None else self._found.features[:_LINES]
        return Listed(self._summary, tuple((self._feature[0], feature) for feature in found))

    @property
    def _summary(self) -> str:
        layer, feature = self._feature
        return f"what is like {layer}:{feature}"

    # What is shown.

    def _show(self, cursor: int | None = None) -> None:
        count, found = self._count, self._found
        said = f"at least {self.least:.3f}"
        if found is not None:
            is_cut = count == len(found.features) < found.of
            said += f": {'the nearest ' if is_cut else ''}{count:,} of {found.of:,}"
        if self.threshold.least is None and self._cosines and self.least < _USUAL:
            said += f" (the nearest few: none has {_USUAL:.2f})"
        self.query_one(ThresholdLine).tell(self.least, said)
        chosen = self.query_one(ChoiceList)
        heading, lines = self._lines(count)
        chosen.set_choices(lines, heading=heading, cursor=cursor)
        chosen.styles.height = "1fr"
        self.query_one("#told", WrappedText).tell(self._asked, "pane--problem")
        itself = "without" if self._with_itself else "with"
        self.query_one(KeyLine).tell(
            [("h/l", "move"), ("space", "cut"), ("s x t L", f"mark {len(self.selected):,}"),
             ("tab", "compare"), ("a", f"{itself} it"), ("T", "as table"), ("enter", "go there"),
             ("esc", "back")]
        )  # fmt: skip

    def _lines(self, count: int) -> tuple[str, list[str]]:
        """The heading, and a line for each feature: `+` before those that are selected."""
        found = self._found
        if found is None or not found.features:
            return "", []
        features, opened = self.listed().features, self._answers.opened
        names = [f"{layer}:{feature}" for layer, feature in features]
        width = max([7, *map(len, names)])
        frames, most = self._reader.frames(opened.known), _TOKENS[found.likeness]
        sides: list[m.Side] = [
            side for side in ("key", "value") if found.likeness in ("both", side)
        ]
        tokens = [labels(features, frames, opened.texts, side, most=most) for side in sides]
        lines = []
        for at, (feature, name, signs) in enumerate(
            zip(features, names, self.signs(features), strict=True)
        ):
            words = " | ".join(
                " ".join(token_label(each, ascii_only=self._ascii) for each in of.get(feature, ()))
                for of in tokens
            )
            cosines = f"{_number(found.key[at])} {_number(found.value[at])}"
            lines.append(f"{'+' if at < count else ' '} {name:>{width}} {signs} {cosines}  {words}")
        titles = {"key": "fires on", "value": "promotes"}
        heading = f"  {'feature':>{width}} {' ' * SIGNS} {'key':>6} {'value':>6}  "
        if len(found.features) > len(lines):
            lines.append(f"  {len(found.features) - len(lines):,} more")
        return heading + " | ".join(titles[side] for side in sides), lines

    # Keys.

    def action_threshold(self, by: int) -> None:
        steps = round(self.least / _STEP, 6)
        # From between two steps to the next one, not a whole step on.
        step = int(steps) + (by > 0) if steps % 1 else steps + by
        self._change(min(1.0, max(0.0, step * _STEP)))

    def action_cut(self) -> None:
        at = self.query_one(ChoiceList).cursor
        if at is not None and at < len(self._cosines):
            self._change(max(0.0, self._cosines[at]))

    def _change(self, least: float) -> None:
        self.threshold, self._asked = replace(self.threshold, least=least), ""
        self._show()

    def action_itself(self) -> None:
        self._with_itself, self._asked = not self._with_itself, ""
        self._show()

    def action_likeness(self) -> None:
        likeness = _NEXT[self.threshold.likeness]
        self.threshold, self._asked = replace(self.threshold, likeness=likeness), ""
        self._compare()

    def action_mark(self, what: str) -> None:
        selected = self.selected
        if not selected:
            self.notify("no feature is over the threshold: h lowers it")
            return
        asked = f"{what} {len(selected):,} features? The same key again does it"
        if len(selected) > _UNASKED and asked != self._asked:
            self._asked = asked
            self._show()
            return
        self._asked = ""
        like = {"like": self._feature} if what in ("tag", "label") else {}
        getattr(self.mark_keys, what)(selected, **like)
        self._show()

    def action_tabulate(self) -> None:
        if self.selected:
            self.leave(Listed(self._summary, self.selected))


def _number(cosine: float | None) -> str:
    return f"{'' if cosine is None else f'{cosine:.3f}':>6}"
