"""A prompt for tokens, completed while they are typed, whose features are then searched.

Several tokens are typed as on the command line (`qlens_tui.token_words`): the last one is
completed, and each before it is the first that would be offered for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lens_core.errors import UsageError
from lens_core.faces import id_named, outside
from lens_core.token_query import TokenQuery
from qlens_tui.app.screens.prompt import Answer, Prompt, Suggestion
from qlens_tui.app.screens.reverse_search import Sought
from qlens_tui.completion import Completion
from qlens_tui.text import fit, token_label, visible
from qlens_tui.token_words import Word, words_of

TITLE = "features by token"
_COMPLETIONS = 50


@dataclass(frozen=True)
class _Offer:
    """A query, as it is shown, and the line that would be typed for it."""

    shown: str
    value: str
    query: TokenQuery


class TokenPrompt(Prompt):
    """Asks for tokens of `texts`; with nothing typed, offers the search `last`."""

    def __init__(
        self,
        completion: Completion,
        texts: Sequence[str],
        last: Sought | None,
        *,
        value: str = "",
        ascii_only: bool,
    ) -> None:
        super().__init__(
            TITLE, value=value, typed=self._look_up, must_choose=True, ascii_only=ascii_only
        )
        self._completion = completion
        self._texts = texts
        self._last = last
        self._offers: list[_Offer] = []
        space = visible(" ", ascii_only=ascii_only)
        self._rule = f"a leading space (or {space}) counts; #7 is id 7; a, b: both; a -b: not b"

    def sought(self, answer: Answer, layer: int | None) -> Sought | None:
        """The search that was asked for, in `layer` or in all layers; `None`: none."""
        if answer.number is None:
            return self._last
        query = self._offers[answer.number].query
        tokens = tuple(self._texts[token] for token in query.ids)
        return Sought(query, tokens, layer, everywhere=layer is None)

    def _look_up(self, _prompt: Prompt, text: str) -> None:
        """Offer what the typed text may mean, or say why it means nothing."""
        self.tell(self._rule, printable=True)
        last = self._last
        if last is not None and not text:
            words = last.in_words(ascii_only=self._ascii)
            self.offer([Suggestion(f"features that {words}", "")], take_first=True)
            labels = ", ".join(last.labels(ascii_only=self._ascii))
            self.tell(f"enter: the last results, for {labels}", printable=True)
            return
        self._offers, problem, hint = [], "", ""
        try:
            self._offers = list(self._meanings(text))
            hint = self._word_or_part()
        except UsageError as error:
            problem = str(error)
        self.offer(
            [Suggestion(each.shown, each.value, at) for at, each in enumerate(self._offers)],
            take_first=True,
        )
        if problem:
            self.tell(problem, problem=True)
        elif hint:
            self.tell(hint, printable=True)

    def _word_or_part(self) -> str:
        """What to say if the second offer, usually the meant one, is the first with a space."""
        singles = [
            self._texts[each.query.ids[0]] for each in self._offers[:2] if len(each.query.ids) == 1
        ]
        if len(singles) < 2 or singles[1] != f" {singles[0]}":
            return ""
        part, word = (visible(each, ascii_only=self._ascii) for each in singles)
        return f"{part} has no space before it, as inside a word; down: {word}"

    def _meanings(self, text: str) -> Iterator[_Offer]:
        """What a text may mean: one token if it is one, a list of tokens, tokens that begin so.

        Raises:
            UsageError: it means nothing.
        """
        alone = self._ids(text, _COMPLETIONS)
        is_one = bool(alone) and (self._texts[alone[0]] == text or alone[0] == id_named(text))
        single = [
            _Offer(f"{self._label(token, 28)} {token}", self._texts[token], TokenQuery((token,)))
            for token in alone
        ]
        try:
            words = words_of(text)
        except UsageError:
            if not alone:
                raise
            words = [Word(text, 0)]
        if words == [Word(words[0].text, 0)]:
            if text and not alone:
                raise self._no_token(text)
            yield from single
            return
        yield from single[:is_one]
        try:
            yield from self._lists(text, words)
        except UsageError:
            if not alone:
                raise
        yield from single[is_one:]

    def _lists(self, typed: str, words: Sequence[Word]) -> Iterator[_Offer]:
        """Queries of several tokens, for each completion of the last one."""
        *before, last = words
        first: tuple[list[int], list[int]] = [], []
        shown = ""
        for word in before:
            token = self._first(word)
            first[word.is_unwanted].append(token)
            shown += f"{'-' * word.is_unwanted}{self._label(token, 14).rstrip()} {token}, "
        found = self._ids(last.text, _COMPLETIONS)
        if not found:
            self._first(last)
        sign = "-" * last.is_unwanted
        refusal: UsageError | None = None
        offered = False
        for token in found:
            wanted, unwanted = (
                (first[0], [*first[1], token]) if sign else ([*first[0], token], first[1])
            )
            query = TokenQuery(tuple(wanted), tuple(unwanted))
            try:
                query.check()
            except UsageError as error:
                refusal = refusal or error
                continue
            offered = True
            value = f"{typed[: last.start]}{self._written(token)}"
            yield _Offer(f"{shown}{sign}{self._label(token, 28)} {token}", value, query)
        if refusal is not None and not offered:
            raise refusal

    def _first(self, word: Word) -> int:
        """The token that a complete item means."""
        if not word.text:
            raise UsageError("type a token here; a comma or minus that is one in double quotes")
        found = self._ids(word.text, 1)
        if not found:
            raise self._no_token(word.text)
        return found[0]

    def _ids(self, text: str, n: int) -> list[int]:
        return self._completion.offered(text, n, ascii_only=self._ascii)

    def _no_token(self, text: str) -> UsageError:
        if id_named(text) is not None:
            return UsageError(outside(f"'{text}'", len(self._texts)))
        return UsageError("no token begins with that, or contains it")

    def _label(self, token: int, width: int) -> str:
        return fit(token_label(self._texts[token], ascii_only=self._ascii), width)

    def _written(self, token: int) -> str:
        """How a token is typed in a list: in the notation of lists, or by its id."""
        label = token_label(self._texts[token], ascii_only=self._ascii)
        try:
            means_itself = words_of(f"a, {label}")[1:] == [Word(label, 3)]
        except UsageError:
            means_itself = False
        return label if means_itself and self._ids(label, 1) == [token] else f"#{token}"
