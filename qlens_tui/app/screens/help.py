"""The help: all keys, from the real bindings, so that it cannot be out of date; then a glossary.

`/` narrows it to the entries that contain every word that is typed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input

from qlens_tui.app.keymap import keys_of, words_of
from qlens_tui.app.widgets.key_line import KeyLine
from qlens_tui.app.widgets.line_input import LineInput
from qlens_tui.app.widgets.line_pane import Line, LinePane, fitted, line
from qlens_tui.glossary import GLOSSARY
from qlens_tui.text import fit, wrapped

_TITLE = "keys and glossary"
_TERM = 18  # columns of a key, or of a term
_WORDS = "glossary"
_NOTHING = "no key and no term of the glossary contains these words"


class _Keys(LinePane):
    def __init__(
        self, sections: Sequence[tuple[str, Sequence[Binding]]], begin: str, *, ascii_only: bool
    ) -> None:
        super().__init__(ascii_only=ascii_only)
        self._sections, self._begin = sections, begin
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
        for title, bindings in self._sections:
            keys = ((keys_of(binding), words_of(binding)) for binding in bindings)
            self._add(body, title, keys, width)
        if not self._sought:
            self._add(body, _WORDS, (), width)
        for title, words in GLOSSARY:
            terms = ((word.shown(ascii_only=self.ascii_only), word.meaning) for word in words)
            self._add(body, title, terms, width)
        if not body:
            body.append(fitted(line((f" {_NOTHING}", "pane--quiet")), width))
        return [self._top_line(width, height - 1, len(body))], body

    def _add(
        self, body: list[Line], title: str, terms: Iterable[tuple[str, str]], width: int
    ) -> None:
        found = [entry for entry in terms if self._is_sought(*entry)]
        if self._sought and not found:
            return
        self._starts[title] = len(body)
        body.append(fitted(line((f" {title}", "pane--title")), width))
        for term, meaning in found:
            body += self._entry(term, meaning, width)
        body.append(())

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
        title = fitted(line((f" {_TITLE}", "pane--title")), max(0, width - len(place)))
        return fitted((*title, (place, "pane--quiet")), width)

    def on_resize(self, event: events.Resize) -> None:
        """Scroll to the user's section, once the layout is known."""
        self.redraw()
        if self._begin in self._starts:
            self._scroll_top(self._starts[self._begin])
            self._begin = ""

    def action_section(self, by: int) -> None:
        """Scroll to the title of the next or the previous section."""
        starts = sorted(self._starts.values())
        others = [start for start in starts if (start - self.top) * by > 0]
        if others:
            self._scroll_top(others[0] if by > 0 else others[-1])

    def action_words(self) -> None:
        self._scroll_top(self._starts.get(_WORDS, self.top))

    def action_half_page(self, by: int) -> None:
        self._scroll_top(self.top + by * max(1, self.body_height // 2))


class _Search(LineInput):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "screen.keys('scroll', -1)", show=False),
        Binding("down", "screen.keys('scroll', 1)", show=False),
        Binding("pageup", "screen.keys('page', -1)", show=False),
        Binding("pagedown", "screen.keys('page', 1)", show=False),
    ]


class Help(ModalScreen[None]):
    """What every key does, by pane, and a glossary, to be searched; escape or `?` closes it."""

    DEFAULT_CSS = """
    Help { align: center middle; background: transparent; }
    Help > Vertical {
        width: 76; max-width: 95%; height: 90%; background: $surface;
        border: round $foreground 40%;
    }
    Help.-ascii > Vertical { border: ascii $foreground 40%; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "Back"),
        Binding("q,question_mark", "leave", "Back"),
        Binding("slash", "search", "Search"),
        Binding("j", "keys('scroll', 1)", "Down", show=False),
        Binding("k", "keys('scroll', -1)", "Up", show=False),
        Binding("ctrl+d", "keys('half_page', 1)", "Half a page down", show=False),
        Binding("ctrl+u", "keys('half_page', -1)", "Half a page up", show=False),
        Binding("g", "keys('scroll', -1000000)", "First line", show=False),
        Binding("G", "keys('scroll', 1000000)", "Last line", show=False),
        Binding("tab", "keys('section', 1)", "Next section"),
        Binding("shift+tab", "keys('section', -1)", "Previous section", show=False),
        Binding("w", "keys('words')", "Glossary"),
    ]

    def __init__(
        self,
        sections: Sequence[tuple[str, Sequence[Binding]]],
        *,
        begin: str = "",
        ascii_only: bool = False,
    ) -> None:
        """Show the keys by section; `begin` is the title of the section to open at."""
        super().__init__()
        self._sections, self._begin, self._ascii = sections, begin, ascii_only
        self.set_class(ascii_only, "-ascii")

    def compose(self) -> ComposeResult:
        with Vertical():
            yield _Keys(self._sections, self._begin, ascii_only=self._ascii)
            yield _Search(placeholder="words to search for", select_on_focus=False)
            yield KeyLine(ascii_only=self._ascii)

    def on_mount(self) -> None:
        self.query_one(_Search).display = False
        self._to_keys()

    def _to_keys(self) -> None:
        """Give the keys of the app to the text, and say which work."""
        self.query_one(_Keys).focus()
        self.query_one(KeyLine).tell(
            [("/", "search"), ("j/k", "line"), ("ctrl+d/u", "half page"), ("tab", "next section"),
             ("w", "glossary"), ("esc", "all" if self.query_one(_Keys).is_narrowed else "back")]
        )  # fmt: skip

    def action_keys(self, what: str, *by: int) -> None:
        getattr(self.query_one(_Keys), f"action_{what}")(*by)

    def action_search(self) -> None:
        search = self.query_one(_Search)
        search.display = True
        search.focus()
        self.query_one(KeyLine).tell([("up/down", "line"), ("enter", "keep"), ("esc", "all")])

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        self.query_one(_Keys).seek(event.value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        if event.value.strip():
            self._to_keys()
        else:
            self.action_back()

    def action_back(self) -> None:
        """End the search; without one, leave."""
        search = self.query_one(_Search)
        if not search.display:
            self.dismiss()
            return
        search.display = False
        search.value = ""
        self.query_one(_Keys).seek("")
        self._to_keys()

    def action_leave(self) -> None:
        self.dismiss()
