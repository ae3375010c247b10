"""Sections of terms, each with its meaning beside it: the help, and where numbers come from.

They can be narrowed to the entries that contain every word of a search.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from textual import events

from qlens_tui.app.widgets.line_pane import Line, LinePane, fitted, line
from qlens_tui.text import fit, wrapped

_TERM = 18  # columns
_NOTHING = "no entry contains these words"


@dataclass(frozen=True)
class Section:
    """A title, and terms with their meanings; all printable."""

    title: str
    terms: Sequence[tuple[str, str]]


class TermList(LinePane):
    """The sections under a title line, which says whether there is more than fits."""

    def __init__(
        self, title: str, sections: Sequence[Section], *, begin: str = "", ascii_only: bool = False
    ) -> None:
        """`begin` is the title of the section to scroll to at first."""
        super().__init__(ascii_only=ascii_only)
        self._title, self._sections, self._begin = title, tuple(sections), begin
        self._starts: dict[str, int] = {}
        self._sought: tuple[str, ...] = ()

    @property
    def is_narrowed(self) -> bool:
        """Whether only what was searched for is shown."""
        return bool(self._sought)

    def seek(self, words: str) -> None:
        """Show only the entries that contain all of these words, from the first one on."""
        self._sought = tuple(words.casefold().split())
        self._begin = ""
        self.redraw()
        self._scroll_top(0)

    def lay_out(self, width: int, height: int) -> tuple[Sequence[Line], Sequence[Line]]:
        body: list[Line] = []
        self._starts = {}
        if not width:
            return [], []
        for section in self._sections:
            found = [entry for entry in section.terms if self._is_sought(*entry)]
            if self._sought and not found:
                continue
            self._starts[section.title] = len(body)
            body.append(fitted(line((f" {section.title}", "pane--title")), width))
            for term, meaning in found:
                body += self._entry(term, meaning, width)
            body.append(())
        if not body:
            body.append(fitted(line((f" {_NOTHING}", "pane--quiet")), width))
        return [self._top_line(width, height - 1, len(body))], body

    def _is_sought(self, term: str, meaning: str) -> bool:
        text = f"{term} {meaning}".casefold()
        return all(word in text for word in self._sought)

    def _entry(self, term: str, meaning: str, width: int) -> Iterator[Line]:
        """A term on the left, its meaning next to it, both wrapped."""
        left = wrapped(term, _TERM)
        right = wrapped(meaning, max(1, width - _TERM - 5))
        for at in range(max(len(left), len(right))):
            name = fit(left[at] if at < len(left) else "", _TERM)
            said = right[at] if at < len(right) else ""
            yield fitted(line((f"   {name} ", "pane--strong"), said), width)

    def _top_line(self, width: int, height: int, count: int) -> Line:
        """The title, and on the right whether there is more than fits."""
        up, down = ("^", "v") if self.ascii_only else ("▴", "▾")
        top = max(0, min(self.top, count - height))
        last = min(top + height, count)
        arrows = f"{up if top else ''}{down if last < count else ''}"
        place = f"{arrows} {top + 1}-{last} of {count} "
        title = fitted(line((f" {self._title}", "pane--title")), max(0, width - len(place)))
        return fitted((*title, (place, "pane--quiet")), width)

    def on_resize(self, event: events.Resize) -> None:
        """Scroll to the section to begin at, once the layout is known."""
        self.redraw()
        if self._begin in self._starts:
            self.action_to_section(self._begin)
            self._begin = ""

    def action_to_section(self, title: str) -> None:
        """Scroll to a section."""
        self._scroll_top(self._starts.get(title, self.top))

    def action_half_page(self, by: int) -> None:
        self._scroll_top(self.top + by * max(1, self.body_height // 2))

    def action_section(self, by: int) -> None:
        """Scroll to the title of the next or the previous section."""
        starts = sorted(self._starts.values())
        others = [start for start in starts if (start - self.top) * by > 0]
        if others:
            self._scroll_top(others[0] if by > 0 else others[-1])
