"""What can be said of a feature, in plain data: marks, what an edit did, and names as kept.

Tags are a vocabulary: two that look alike would be two, so a tag is normalised, and what
cannot be seen is refused. A note is a person's own text and is kept as it is, as far as a
file of UTF-8 can.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lens_core.errors import UsageError

TAG_LENGTH = 64
NOTE_LENGTH = 100_000


@dataclass(frozen=True)
class DictionaryName:
    """A dictionary: its content, and what people call it."""

    sha256: str
    name: str
    model: str
    layer: int


Selection = Mapping[DictionaryName, Iterable[int]]
"""The features that an edit is about, by dictionary."""


@dataclass(frozen=True)
class Mark:
    """What was decided about one feature; `tags` in alphabetical order, `note` "" if none."""

    star: bool = False
    reject: bool = False
    tags: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Step:
    """What an edit, an undo or a redo did.

    `what` is such as "star" or "tag keep, untag draft". `changed` counts marks (a star, a
    tag), not those that were so already; `left_alone` those that an undo or a redo did not
    touch, because another session changed them since.
    """

    edit: int
    what: str
    changed: int
    left_alone: int = 0


def tag_name(text: str) -> str:
    """A tag as it is kept: composed characters (NFC), single spaces, none at the ends.

    Raises:
        UsageError: it is empty, too long, or holds what separates tags or cannot be seen.
    """
    composed = unicodedata.normalize("NFC", text).strip()
    name = "".join(" " if unicodedata.category(c) == "Zs" else c for c in composed)
    name = re.sub(" +", " ", name)
    if not name:
        raise UsageError("a tag needs a name: type one or more letters")
    if len(name) > TAG_LENGTH:
        raise UsageError(
            f"a tag has at most {TAG_LENGTH} characters, this one {len(name):,}: "
            "shorten it, or write a note"
        )
    if "," in name:
        raise UsageError("a tag cannot hold a comma: give tags one at a time")
    for character in name:
        if character != " " and unicodedata.category(character)[0] in "CZ":
            raise UsageError(
                f"a tag cannot hold U+{ord(character):04X}, which cannot be seen: leave it out"
            )
    return name


def note_text(text: str) -> str:
    """A note as it is kept: lines end in a newline, and a note of blanks is none.

    NUL, which ends a string for many readers of the file, and half a character (a lone
    surrogate) become U+FFFD; everything else stays.

    Raises:
        UsageError: it is longer than `NOTE_LENGTH` characters.
    """
    if len(text) > NOTE_LENGTH:
        raise UsageError(
            f"a note has at most {NOTE_LENGTH:,} characters, this one {len(text):,}: shorten it"
        )
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\ufffd")
    return whole_characters(text) if text.strip() else ""


def whole_characters(text: str) -> str:
    """Text that UTF-8 can hold: surrogate pairs joined, halves as U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
