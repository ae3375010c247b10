"""The lines of a token pane about blocks that are off: which, what that changed, how to undo it.

The line above the lists gives the score lost and how many tokens came in and left; the lines
below name those that left. Tokens that came in are marked with `+` in their list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lens_core.terms import Switch, switch_names
from qlens_tui.app.views import ListsView
from qlens_tui.app.widgets.line_pane import Line, Run, facts
from qlens_tui.engine.messages import ListChange, SideSignature
from qlens_tui.formats import counted, score_change
from qlens_tui.text import cells, token_label, visible

CAME_IN = "+"
_NAMED = 4
"""The most blocks that are named; of more, only the number is said."""


def off_blocks(off: Sequence[Switch], path: range) -> list[str]:
    """Which blocks are off and how to bring them back, in several wordings, longest first."""
    is_named = len(off) <= _NAMED
    blocks = [each for each in off if isinstance(each, int)]
    heads = len(off) - len(blocks)
    counts = [f"{len(blocks)} of {len(path)}"] if blocks else []
    counts += [counted(heads, "head")] if heads else []
    which = f"off: {' '.join(switch_names(off))}" if is_named else f"{' and '.join(counts)} off"
    return [f"{which} (a: all on)", f"{len(off)} off (a: all on)"]


@dataclass(frozen=True)
class SwitchLines:
    """The lines for one view whose lists, `of`, have blocks off."""

    view: ListsView
    of: SideSignature
    ascii_only: bool

    @property
    def changes(self) -> Mapping[str, ListChange] | None:
        """The changes of the lists shown, by lens; `None`: they are compared with Logit Lens."""
        against = self.view.against
        if against is None or against.problem:
            return None
        if against.change is None:
            return {}
        return against.change.top if self.view.look.end == "top" else against.change.bottom

    def head(self, lenses: Sequence[str], width: int) -> Line:
        """How the lists differ from those with all blocks on; `lenses` are those shown."""
        against = self.view.against
        if against is None:
            return ((" moved: against Logit Lens (D: against all on)", "pane--quiet"),)
        if against.problem:
            problem = visible(against.problem, ascii_only=self.ascii_only)
            return ((f" ! not compared with all on: {problem}", "pane--problem"),)
        start: Run = " against all on: ", "pane--quiet"
        shown = [change for lens in lenses if (change := (self.changes or {}).get(lens))]
        if against.change is None or not shown:
            arrow, ellipsis = (">", "...") if self.ascii_only else ("▸", "…")
            awaits = visible(against.awaits, ascii_only=self.ascii_only)
            return (start, (f"{arrow} {awaits}{ellipsis}", "pane--waiting") if awaits else ("", ""))
        change = shown[-1]
        came_in, left = len(change.came_in), len(change.left)
        pieces = [[f"{came_in} came in ({CAME_IN}), {left} left", f"{came_in} in, {left} left"]]
        if not came_in + left:
            pieces = [[f"the same {min(against.change.k, len(change.ids))} tokens"]]
        if self.view.look.end == "top":
            pieces.insert(0, [score_change(change.lost)])
        if against.change.operators != self.of.operators:
            by = "the direct method" if against.change.operators == "none" else "operators"
            pieces.append([f"all on by {by}"])
        pieces.append(["D: against Logit Lens", "D: Logit Lens"])
        said = facts(pieces, width - cells(start[0]))
        return (start, (said, "pane--strong"))

    def left(self, titles: Mapping[str, str], width: int, height: int) -> list[Line]:
        """The tokens that left each list, at most `height` lines; `titles` are of lists shown."""
        lists = {
            title: change.left
            for lens, title in titles.items()
            if (change := (self.changes or {}).get(lens)) and change.left
        }
        lines: list[Line] = []
        for at, (title, tokens) in enumerate(reversed(lists.items())):
            start = f" left {title}: " if len(lists) > 1 else " left: "
            labels = [token_label(each.token, ascii_only=self.ascii_only) for each in tokens]
            room = height - len(lines) - (len(lists) - 1 - at)
            lines += [((text, "pane--quiet"),) for text in _wrapped(start, labels, width, room)]
        return lines


def _wrapped(start: str, labels: Sequence[str], width: int, height: int) -> list[str]:
    """Labels after `start`, on at most `height` lines; `+3 more` for those that do not fit."""
    lines: list[str] = []
    line = start
    for at, label in enumerate(labels):
        left_over = f"  +{len(labels) - at - 1} more" if at + 1 < len(labels) else ""
        is_last = len(lines) == height - 1
        separator = "" if line in (start, "   ") else "  "
        if cells(line + separator + label + (left_over if is_last else "")) <= width:
            line += separator + label
        elif is_last or height < 1:
            more = f"+{len(labels) - at} more"
            return [*lines, f"{line}{separator}{more}"][: max(0, height)]
        else:
            lines.append(line)
            line = "   " + label
    return [*lines, line][: max(0, height)]
