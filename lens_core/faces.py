r"""Faces of tokens: text for tokens that are not valid UTF-8, and names for ids.

A face is a token's string, which any file and protocol can hold (`lens_core.vocabulary` makes
them). Byte-level vocabularies split characters: a token may be `e6 88`, the first two bytes of
战. In a face such a byte is written `\xe6`, and valid text next to it is unchanged:
`"abc\xe6"` (a backslash and three characters). Backslashes in front of such a byte, or of text
that looks like one, are doubled, so that every face has one meaning.

Internally, while text is joined or split, such a byte is the surrogate of Python's
`surrogateescape` (U+DCE6); undecodable bytes from a shell arrive in the same form. No torch
here, because front ends use this module too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

_BYTE = "x[89a-f][0-9a-f]"
_SURROGATES = re.compile("[\udc80-\udcff]+")
_TO_ESCAPE = re.compile(rf"(\\*)([\udc80-\udcff]|(?<=\\){_BYTE})")
_NAMES_AN_ID = re.compile(r"#0*([0-9]+)|<id 0*([0-9]+)>")
_DIGITS = 19  # an id of more is in no vocabulary, and thousands of digits are no `int`
_ESCAPED = re.compile(rf"(\\+)({_BYTE})")


def escape_bytes(text: str) -> str:
    r"""The face of a text in which surrogates U+DC80 to U+DCFF represent bytes."""
    if text.isascii() and "\\" not in text:
        return text
    return _TO_ESCAPE.sub(_escaped, text)


def unescape_bytes(face: str) -> str:
    """The text of a face, with surrogates for its bytes; the inverse of `escape_bytes`."""
    if "\\" not in face:
        return face
    return _ESCAPED.sub(_unescaped, face)


def joined(faces: Iterable[str]) -> str:
    """The face of consecutive texts; bytes that form a character together become that character."""
    text = "".join(map(unescape_bytes, faces))
    return escape_bytes(_SURROGATES.sub(_whole, text))


def parted(faces: Sequence[str]) -> Iterator[tuple[range, str]]:
    """Consecutive texts one by one, but those that share a character together, as `joined`."""
    start, is_open = 0, False
    for at, text in enumerate(map(unescape_bytes, faces)):
        if at and not (is_open and (not text or _SURROGATES.match(text[0]))):
            yield range(start, at), joined(faces[start:at])
            start = at
        if text:
            is_open = _SURROGATES.match(text[-1]) is not None
    if faces:
        yield range(start, len(faces)), joined(faces[start:])


def id_named(text: str) -> int | None:
    """The id in `#24211` or `<id 50270>`, whether or not a vocabulary has it.

    Of a number of more than 19 digits these are the first ones.
    """
    found = _NAMES_AN_ID.fullmatch(text)
    return int((found[1] or found[2])[:_DIGITS]) if found else None


def outside(token: str, size: int) -> str:
    """The message for an id, named in the words of the user, that a vocabulary does not have."""
    return f"{token} is outside the vocabulary, which has {size:,} tokens (ids 0 to {size - 1})"


def _escaped(found: re.Match[str]) -> str:
    slashes, what = found[1] * 2, found[2]
    return slashes + (what if len(what) > 1 else f"\\x{ord(what) - 0xDC00:02x}")


def _unescaped(found: re.Match[str]) -> str:
    slashes, what = found[1], found[2]
    kept = "\\" * (len(slashes) // 2)
    return kept + (chr(0xDC00 + int(what[1:], 16)) if len(slashes) % 2 else what)


def _whole(found: re.Match[str]) -> str:
    content = found[0].encode("utf-8", "surrogateescape")
    return content.decode("utf-8", "surrogateescape")
