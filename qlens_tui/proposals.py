"""Tags and labels proposed for a feature, from the best tokens of its Query Lens lists.

A token is proposed if it reads as a word: letters, with hyphens or apostrophes between them, at
least three in scripts that have capitals. Tokens that begin a word (with a space, or a capital)
come before others, which are often fragments. Of words that differ only in case, or in a short
ending (change, Changed, changing), only the first is proposed.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, takewhile, zip_longest

_SHORTEST, _LONGEST = 3, 30
_MOST = 5
_IN_LABEL = 3
_STEM, _ENDING = 4, 3  # letters
_FIRES, _PROMOTES = "fires on", "promotes"


@dataclass(frozen=True)
class Proposal:
    """A text, and what the feature does with its tokens: `fires on`, `promotes`, or both."""

    text: str
    origin: str


def words_in(tokens: Iterable[str]) -> list[str]:
    """The words among the faces of tokens, those that begin a word first, otherwise in order."""
    begins: list[str] = []
    others: list[str] = []
    for token in tokens:
        word = unicodedata.normalize("NFC", token.strip(" "))
        if _is_word(word):
            is_begin = token.startswith(" ") or word[0] != word[0].lower()
            (begins if is_begin else others).append(word)
    found: list[str] = []
    for word in (*begins, *others):
        if not any(_are_alike(word.casefold(), each.casefold()) for each in found):
            found.append(word)
    return found


def tags_from(key: Sequence[str], value: Sequence[str]) -> list[Proposal]:
    """Single words, from the words of the key's list and the value's in turn."""
    origins: dict[str, list[str]] = {}
    pairs = ([(_FIRES, word) for word in key], [(_PROMOTES, word) for word in value])
    for each in chain.from_iterable(zip_longest(*pairs)):
        if each is not None:
            origin, word = each
            alike = (known for known in origins if _are_alike(known.casefold(), word.casefold()))
            origins.setdefault(next(alike, word), []).append(origin)
    found = (Proposal(word, ", ".join(sorted(set(those)))) for word, those in origins.items())
    return list(found)[:_MOST]


def labels_from(key: Sequence[str], value: Sequence[str]) -> list[Proposal]:
    """The first words of each list, and then single words."""
    phrases = [
        Proposal(", ".join(words[:_IN_LABEL]), origin)
        for words, origin in ((key, _FIRES), (value, _PROMOTES))
        if words
    ]
    texts = dict.fromkeys(each.text.casefold() for each in phrases)
    if len(phrases) > len(texts):
        phrases = [Proposal(phrases[0].text, f"{_FIRES}, {_PROMOTES}")]
    single = [each for each in tags_from(key, value) if each.text.casefold() not in texts]
    return [*phrases, *single][:_MOST]


def _are_alike(one: str, other: str) -> bool:
    """Whether two words differ in at most a short ending; both in lower case."""
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
    endings = {one[same:], other[same:]}
    return endings <= {"", "s"} or (same >= _STEM and max(map(len, endings)) <= _ENDING)


def _is_word(text: str) -> bool:
    if not text or len(text) > _LONGEST:
        return False
    inner = text.translate({ord(sign): None for sign in "-'’"})
    has_ends = unicodedata.category(text[0])[0] == "L" and text[-1] not in "-'’"
    has_case = inner.lower() != inner.upper()
    return (
        has_ends
        and all(unicodedata.category(character)[0] in "LM" for character in inner)
        and len(inner) >= (_SHORTEST if has_case else 1)
    )
