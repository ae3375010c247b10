"""The help: all keys, from the real bindings, so that it cannot be out of date; then a glossary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.binding import Binding, BindingType

from qlens_tui.app.keymap import keys_of, words_of
from qlens_tui.app.screens.terms import Terms
from qlens_tui.app.widgets.term_list import Section
from qlens_tui.glossary import GLOSSARY

_WORDS = "glossary"


class Help(Terms):
    """What every key does, by pane, and a glossary; escape or `?` closes it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("question_mark", "leave", "Back", show=False),
        Binding("w", f"keys('to_section', '{_WORDS}')", "Glossary"),
    ]

    def __init__(
        self,
        sections: Sequence[tuple[str, Sequence[Binding]]],
        *,
        begin: str = "",
        ascii_only: bool = False,
    ) -> None:
        """Show the keys by section; `begin` is the title of the section to open at."""
        keys = [
            Section(title, [(keys_of(binding), words_of(binding)) for binding in bindings])
            for title, bindings in sections
        ]
        words = [
            Section(title, [(word.shown(ascii_only=ascii_only), word.meaning) for word in terms])
            for title, terms in GLOSSARY
        ]
        super().__init__(
            "keys and glossary",
            [*keys, Section(_WORDS, ()), *words],
            keys=[("w", _WORDS)],
            begin=begin,
            ascii_only=ascii_only,
        )
