"""Lines under a fixed head, of which only changed ones are repainted.

A plain `refresh()` of a Textual widget sends all of it to the terminal, which is slow over SSH.
The panes lay out whole lines of styled text instead, and lines that are already on the screen are
not sent again. Nothing here depends on what the lines say.

Cost: laying out a few dozen lines per change; one dictionary look-up per painted run.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product, zip_longest
from typing import ClassVar

from rich.segment import Segment
from textual import events
from textual.app import RenderResult
from textual.binding import Binding, BindingType
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from qlens_tui.text import cells, fit

Run = tuple[str, str]
"""Text, its width in cells, and the component class of its style ('': none)."""

Line = tuple[Run, ...]


def line(*runs: Run | str) -> Line:
    """A line of runs; neighbours of one style become one run, which saves escape sequences."""
    merged: list[Run] = []
    for run in runs:
        text, style = (run, "") if isinstance(run, str) else run
        if not text:
            continue
        if merged and merged[-1][1] == style:
            merged[-1] = merged[-1][0] + text, style
        else:
            merged.append((text, style))
    return tuple(merged)


def width_of(of: Line) -> int:
    """How many columns a line takes."""
    return sum(cells(text) for text, _ in of)


def fitted(of: Line, width: int, ellipsis: str = "…") -> Line:
    """The line cropped or padded to exactly `width` columns."""
    kept: list[Run] = []
    room = width
    total = width_of(of)
    for index, (text, style) in enumerate(of):
        taken = cells(text)
        last = index == len(of) - 1
        if taken > room or (taken == room and not last and total > width):
            kept.append((fit(text, room, ellipsis=ellipsis if taken > room else ""), style))
            room = 0
            break
        kept.append((text, style))
        room -= taken
    return line(*kept, " " * room)


def facts(pieces: Sequence[Sequence[str]], width: int, separator: str = ", ") -> str:
    """As many pieces as fit, from the first on, each in the longest wording that fits.

    A piece is a sequence of wordings.
    """
    for kept in range(len(pieces), 0, -1):
        said = [separator.join(wordings) for wordings in product(*pieces[:kept])]
        fitting = [text for text in said if cells(text) <= width]
        if fitting:
            return max(fitting, key=cells)
    return ""


class LinePane(Widget, can_focus=True):
    """A widget of lines. Subclasses return them from `lay_out` and call `redraw` on a change."""

    DEFAULT_CSS = """
    LinePane {
        width: 1fr;
        height: 1fr;
        min-height: 1;
    }
    LinePane > .pane--title { text-style: bold; }
    LinePane > .pane--title-focused { text-style: bold reverse; }
    LinePane > .pane--quiet { text-style: dim; }
    LinePane > .pane--strong { text-style: bold; }
    LinePane > .pane--problem { color: $text-error; text-style: bold; }
    LinePane > .pane--waiting { color: $text-warning; }
    LinePane > .pane--cursor { text-style: reverse; }
    LinePane > .pane--cursor-grey { text-style: reverse dim; }
    LinePane > .pane--shade-1 { background: $success 20%; }
    LinePane > .pane--shade-2 { background: $success 40%; }
    LinePane > .pane--shade-3 { background: $success 65%; color: $text; }
    LinePane > .pane--shade-4 { background: $success; color: $text; text-style: bold; }
    LinePane:ansi > .pane--shade-1 { background: ansi_default; color: $text-success; }
    LinePane:ansi > .pane--shade-2 {
        background: ansi_default; color: $text-success; text-style: underline;
    }
    LinePane:ansi > .pane--shade-3 { background: ansi_green; color: ansi_black; }
    LinePane:ansi > .pane--shade-4 {
        background: ansi_green; color: ansi_black; text-style: bold underline;
    }
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "pane--title",
        "pane--title-focused",
        "pane--quiet",
        "pane--strong",
        "pane--problem",
        "pane--waiting",
        "pane--cursor",
        "pane--cursor-grey",
        "pane--shade-1",
        "pane--shade-2",
        "pane--shade-3",
        "pane--shade-4",
    }

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "scroll(-1)", "Up", show=False, tooltip="Scroll up"),
        Binding("down", "scroll(1)", "Down", show=False, tooltip="Scroll down"),
        Binding("pageup", "page(-1)", "Page up", show=False, tooltip="Scroll a page up"),
        Binding("pagedown", "page(1)", "Page down", show=False, tooltip="Scroll a page down"),
        Binding(
            "home", "scroll(-1000000)", "First line", show=False, tooltip="Scroll to the first line"
        ),
        Binding(
            "end", "scroll(1000000)", "Last line", show=False, tooltip="Scroll to the last line"
        ),
    ]

    def __init__(
        self,
        *,
        ascii_only: bool = False,
        name: str | None = None,
        id: str | None = None,
        classes: str | None = None,
    ) -> None:
        super().__init__(name=name, id=id, classes=classes)
        self.ascii_only = ascii_only
        self._head: tuple[Line, ...] = ()
        self._foot: tuple[Line, ...] = ()
        self._body: tuple[Line, ...] = ()
        self._painted: list[Line] = []
        self._top = 0

    def lay_out(self, width: int, height: int) -> tuple[Sequence[Line], Sequence[Line]]:
        """The fixed lines, and the lines that scroll under them."""
        raise NotImplementedError

    def foot(self, width: int, height: int) -> Sequence[Line]:
        """Fixed lines below those that scroll."""
        return ()

    @property
    def top(self) -> int:
        """How many lines are scrolled off at the top."""
        return self._top

    @property
    def body_height(self) -> int:
        """How many scrolling lines are on the screen."""
        return max(0, self.content_size.height - len(self._head) - len(self._foot))

    @property
    def lines(self) -> list[str]:
        """The visible text."""
        return ["".join(text for text, _ in shown) for shown in self._painted]

    @property
    def all_lines(self) -> list[str]:
        """All of the text, also what is scrolled out of sight."""
        return ["".join(text for text, _ in each) for each in (*self._head, *self._body)]

    @property
    def ellipsis(self) -> str:
        return "..." if self.ascii_only else "…"

    def title_style(self) -> str:
        return "pane--title-focused" if self.has_focus else "pane--title"

    def redraw(self) -> None:
        """Lay out again, and repaint what differs from what is on the screen."""
        height = self.content_size.height
        head, body = self.lay_out(self.content_size.width, height)
        self._head, self._body = tuple(head), tuple(body)
        self._foot = tuple(self.foot(self.content_size.width, height))
        self._top = max(0, min(self._top, len(self._body) - self.body_height))
        before, self._painted = self._painted, [self._shown(y) for y in range(height)]
        changed = [
            Region(0, y, self.content_size.width, 1)
            for y, (old, new) in enumerate(zip_longest(before, self._painted))
            if old != new
        ]
        if changed:
            self.refresh(*changed)

    def show_line(self, index: int) -> None:
        """Scroll as little as needed to show line `index` of the body."""
        self._scroll_top(min(index, max(self._top, index - self.body_height + 1)))

    def action_scroll(self, by: int) -> None:
        self._scroll_top(self._top + by)

    def action_page(self, by: int) -> None:
        self._scroll_top(self._top + by * max(1, self.body_height - 1))

    def _scroll_top(self, top: int) -> None:
        self._top = max(0, min(top, len(self._body) - self.body_height))
        self.redraw()

    def _shown(self, y: int) -> Line:
        if y < len(self._head):
            return self._head[y]
        row = y - len(self._head)
        rows = min(self.body_height, len(self._body) - self._top)
        if row < rows:
            return self._body[self._top + row]
        return self._foot[row - rows] if row - rows < len(self._foot) else ()

    def on_resize(self, event: events.Resize) -> None:
        self.redraw()

    def watch_has_focus(self, has_focus: bool) -> None:
        super().watch_has_focus(has_focus)
        self.redraw()

    def render(self) -> RenderResult:
        return ""

    def render_line(self, y: int) -> Strip:
        plain = self.rich_style
        width = self.content_size.width
        segments = [
            Segment(text, self.get_component_rich_style(style) if style else plain)
            for text, style in (self._painted[y] if y < len(self._painted) else ())
        ]
        return Strip(segments).adjust_cell_length(width, plain)
