"""Marks of a feature as plain data, the result of an edit, and the rules for texts.

Tags that look the same must be the same, so a tag is normalised and invisible characters are
refused; so is a label, which is one line. A note is kept unchanged, as far as UTF-8 allows.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lens_core.errors import UsageError

TAG_LENGTH = 64
LABEL_LENGTH = 200
NOTE_LENGTH = 100_000


@dataclass(frozen=True)
class DictionaryName:
    """A dictionary: the hash of its content, and its names."""

    sha256: str
    name: str
    model: str
    layer: int


Selection = Mapping[DictionaryName, Iterable[int]]
"""The features of an edit, by dictionary."""


@dataclass(frozen=True)
class Mark:
    """The marks of one feature; `tags` in alphabetical order, `label` and `note` "" if none."""

    star: bool = False
    reject: bool = False
    label: str = ""
    tags: tuple[str, ...] = ()
    note: str = ""


_DONE = {
    "star": "starred", "unstar": "unstarred", "reject": "rejected", "unreject": "unrejected",
    "tag": "tagged", "untag": "untagged", "label": "labelled", "unlabel": "label removed",
    "note": "note written", "unnote": "note removed",
}  # fmt: skip


@dataclass(frozen=True)
class Step:
    """What an edit, an undo or a redo did.

    `what` is such as "star" or "tag keep, untag draft". `changed` counts marks (a star, a
    tag), without those that already were so; `left_alone` those that an undo or a redo did not
    change, because another session has changed them since.
    """

    edit: int
    what: str
    changed: int
    left_alone: int = 0

    @property
    def in_words(self) -> str:
        """What was done, in the past: "starred", "tagged keep, untagged draft", "label removed"."""
        said = []
        for part in self.what.split(", "):
            kind, space, tag = part.partition(" ")
            said.append(f"{_DONE[kind]}{space}{tag}")
        return ", ".join(said)

    @property
    def only_removes(self) -> bool:
        """Whether the edit made no mark, but took some away."""
        return all(part.startswith("un") for part in self.what.split(", "))


def tag_name(text: str) -> str:
    """A tag as it is kept: composed characters (NFC), single spaces, none at the ends.

    Raises:
        UsageError: it is empty, too long, or contains a comma or an invisible character.
    """
    name = _single_spaced(text)
    if not name:
        raise UsageError("a tag needs a name: type one or more letters")
    if len(name) > TAG_LENGTH:
        raise UsageError(
            f"a tag may have at most {TAG_LENGTH} characters, this one has {len(name):,}: "
            "shorten it, or write a note"
        )
    if "," in name:
        raise UsageError("a tag cannot hold a comma: give tags one at a time")
    _demand_visible(name, "a tag")
    return name


def label_text(text: str) -> str:
    """A label as it is kept: as `tag_name`, but longer, with commas; "" for none.

    Raises:
        UsageError: it is too long, or contains an invisible character.
    """
    label = _single_spaced(text)
    if len(label) > LABEL_LENGTH:
        raise UsageError(
            f"a label may have at most {LABEL_LENGTH} characters, this one has {len(label):,}: "
            "shorten it, or write a note"
        )
    _demand_visible(label, "a label")
    return label


def note_text(text: str) -> str:
    """A note as it is kept: lines end in a newline, and a note of blanks is none.

    NUL, which ends a string for many programs, and half a character (a lone surrogate) become
    U+FFFD; everything else is unchanged.

    Raises:
        UsageError: it is longer than `NOTE_LENGTH` characters.
    """
    if len(text) > NOTE_LENGTH:
        raise UsageError(
            f"a note may have at most {NOTE_LENGTH:,} characters, this one has {len(text):,}: "
            "shorten it"
        )
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\ufffd")
    return whole_characters(text) if text.strip() else ""


def _single_spaced(text: str) -> str:
    composed = unicodedata.normalize("NFC", text).strip()
    spaced = "".join(" " if unicodedata.category(c) == "Zs" else c for c in composed)
    return re.sub(" +", " ", spaced)


def _demand_visible(text: str, what: str) -> None:
    for character in text:
        if character != " " and unicodedata.category(character)[0] in "CZ":
            raise UsageError(
                f"{what} cannot hold U+{ord(character):04X}, which is invisible: remove it"
            )


def whole_characters(text: str) -> str:
    """Text that UTF-8 can encode: surrogate pairs joined, halves as U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
