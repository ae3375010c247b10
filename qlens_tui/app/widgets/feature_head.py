"""The head of the feature under the cursor, on a wide screen: its marks, and the table's numbers.

The table shows small bars; this says the same in numbers, at once, as no answer is waited for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qlens_tui.app.views import HeadView
from qlens_tui.app.widgets.feature_table import FeatureTable
from qlens_tui.app.widgets.line_pane import Line, LinePane, Run, facts, fitted, line
from qlens_tui.table.column_names import EXPLANATION
from qlens_tui.text import visible
from qlens_tui.triage.marks import Mark

_NUMBERS: tuple[tuple[str, Mapping[str, str]], ...] = (
    ("fires on", {"": "density"}),
    ("gain", {"k": "key_gain", "v": "value_gain"}),
    ("stability", {"k": "key_stability", "v": "value_stability"}),
)
"""What the second line says: a name, and columns of the table by a short name for the side."""


def head_view(table: FeatureTable, marks: Mapping[int, Mapping[int, Mark]]) -> HeadView:
    """The head of the feature under the table's cursor."""
    feature = table.feature
    if feature is None:
        return HeadView()
    layer, number = feature
    columns = [column for _, names in _NUMBERS for column in names.values()]
    mark = marks.get(layer, {}).get(number, Mark())
    return HeadView(feature, mark, table.values_of([*columns, EXPLANATION]))


class FeatureHead(LinePane, can_focus=False):
    """Two lines: name, label, marks and note; numbers."""

    DEFAULT_CSS = "FeatureHead { height: 2; }"

    def __init__(self, *, ascii_only: bool = False, id: str | None = None) -> None:
        super().__init__(ascii_only=ascii_only, id=id)
        self._view = HeadView()

    def tell(self, view: HeadView) -> None:
        if view != self._view:
            self._view = view
            self.redraw()

    def lay_out(self, width: int, height: int) -> tuple[Sequence[Line], Sequence[Line]]:
        view = self._view
        if view.feature is None:
            return [(), ()], []
        layer, feature = view.feature
        runs: list[Run] = [(f" {layer}:{feature}", "pane--strong")]
        mark = view.mark
        if mark.label:
            label = visible(mark.label, ascii_only=self.ascii_only)
            runs.append((f"  {label}", "pane--strong"))
        explanation = view.values.get(EXPLANATION, "")
        if explanation:
            runs.append((f"  {explanation}", ""))
        runs += [(f"  {name}", "") for name, on in
                 (("starred", mark.star), ("rejected", mark.reject)) if on]  # fmt: skip
        if mark.tags:
            tags = ", ".join(visible(tag, ascii_only=self.ascii_only) for tag in mark.tags)
            runs += [("  tags ", "pane--quiet"), (tags, "")]
        if mark.note:
            note = visible(mark.note, ascii_only=self.ascii_only)
            runs += [("  note ", "pane--quiet"), (note, "")]
        said = [[text] for text in self._numbers()]
        numbers = line((f" {facts(said, width - 1, '   ')}", "pane--quiet"))
        return [fitted(line(*runs), width, self.ellipsis), fitted(numbers, width)], []

    def _numbers(self) -> list[str]:
        said = []
        for name, columns in _NUMBERS:
            known = [(side, self._view.values.get(column, "")) for side, column in columns.items()]
            parts = [f"{side} {text}".strip() for side, text in known if text]
            if parts == ["silent"]:
                said.append("silent in the reference")
            elif parts:
                said.append(f"{name} {' '.join(parts)}")
        return said
