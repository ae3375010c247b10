r"""Makes untrusted text printable; the only module that does.

Tokens, notes, file names and messages are untrusted. They may contain escape sequences, bidi
controls or invisible characters, which would control the terminal or make two tokens look the
same. All untrusted text that a front end prints goes through `visible`, once: a second time would
escape its own escapes.

The notation: `␣` for a leading or trailing space, `⏎` and `⇥` for newline and tab, `\r`, and
`\x1b`, `\u202e`, `\U000e0041` for all other invisible characters; a combining mark without a base
gets `◌`. In ASCII: `_`, `\n`, `\t`, and escapes for everything else. It can be read back: a
backslash in the text is doubled if what follows would look like an escape, and a marker in the
text (`␣`, or `_` where a space would be marked) is escaped. So different texts never look the
same.

`\xNN` is always one byte of UTF-8; from `\x80` on, a byte that is not part of a complete
character: in a token that is part of a character, or in a file name that is not UTF-8 (both as the
surrogates of Python's `surrogateescape`). U+0080 to U+00FF are `\u0080` to `\u00ff`.

Cost: one pass over the characters, none for printable ASCII words.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from itertools import pairwise, takewhile

from rich.cells import cell_len, get_character_cell_size

from lens_core.faces import escape_bytes, unescape_bytes

EMPTY = r"\empty"
_SPACE, _NEWLINE, _TAB, _BASE = "␣", "⏎", "⇥", "◌"
_MEANINGS = {_SPACE: " ", _NEWLINE: "\n", _TAB: "\t", _BASE: ""}
_MEANINGS |= {r"\n": "\n", r"\t": "\t", r"\r": "\r"}
_IN_ASCII = {_SPACE: "_", _NEWLINE: r"\n", _TAB: r"\t"}
# What may follow the backslash of an escape: see `_joined`.
_ESCAPES = frozenset("\\xuUrnt_e")
_UNIT = re.compile(r"\\x[0-9a-f]{2}|\\u[0-9a-f]{4}|\\U[0-9a-f]{8}|\\[\\nrt_]|.", re.DOTALL)
_PLAIN = re.compile(r"(?![ _])[ -\[\]-~]+(?<![ _])")
_UNSEEN = frozenset(
    "\u034f"  # combining grapheme joiner
    "\u115f\u1160\u3164\uffa0"  # Hangul fillers
    "\u17b4\u17b5"  # Khmer inherent vowels
    "\u2800"  # blank braille
    "\u180b\u180c\u180d\u180f"  # Mongolian variation selectors
    + "".join(map(chr, range(0xFE00, 0xFE10)))  # variation selectors
    + "".join(map(chr, range(0xE0100, 0xE01F0)))
)
# Our markers, which are escaped if they occur in the text.
_OURS = frozenset(_SPACE + _NEWLINE + _TAB + _BASE)
# The surrogates for the bytes 0x80 to 0xff.
_BYTES = "".join(map(chr, range(0xDC80, 0xDD00)))
# Spreadsheets treat the full-width forms as operators too.
_FORMULA = re.compile(r" *[=+\-@＝＋－＠]|[\t\r\n]")
# They change the width of their neighbours; `visible` escapes them.
_JOINERS = {0x200D: None, 0xFE0F: None}


def visible(text: str, *, ascii_only: bool = False) -> str:
    """Any string as one printable line (see the module's notation)."""
    if _PLAIN.fullmatch(text):
        return text
    body = text.strip(" ")
    before = len(text) - len(text.lstrip(" ")) if body else len(text)
    after = len(text) - before - len(body)
    shapes: list[str] = []
    sits_on_base = False
    for character in body:
        own = character == " " or (has_shape(character) and character not in _OURS)
        if own and (character.isascii() or not ascii_only):
            floating = _is_mark(character) and not sits_on_base
            shapes.append(_BASE + character if floating else character)
            sits_on_base = character != " "
        else:
            shapes.append(_escaped(character, ascii_only))
            sits_on_base = False
    if ascii_only:
        for end in {0, len(body) - 1} if body else ():
            shapes[end] = r"\_" if shapes[end] == "_" else shapes[end]
    space = "_" if ascii_only else _SPACE
    return _joined([space] * before + shapes + [space] * after)


def token_label(face: str, *, ascii_only: bool = False) -> str:
    r"""A token's face as lists show it; `\empty` for one without characters."""
    return visible(unescape_bytes(face), ascii_only=ascii_only) or EMPTY


def context_label(face: str, *, ascii_only: bool = False) -> str:
    """Tokens (`lens_core.faces.joined`) in the middle of a line: outer spaces are plain spaces."""
    return visible(f"|{unescape_bytes(face)}|", ascii_only=ascii_only)[1:-1]


def as_typed(text: str, *, ascii_only: bool = False) -> str:
    """Text that a user typed, as one printable line: what is in the notation stays as it is."""
    shapes: list[str] = []
    sits_on_base = False
    for character in text:
        if character == " " or (has_shape(character) and (character.isascii() or not ascii_only)):
            floating = _is_mark(character) and not sits_on_base
            shapes.append(_BASE + character if floating else character)
            sits_on_base = character != " "
        else:
            shapes.append(_IN_ASCII.get(character) or _escaped(character, ascii_only))
            sits_on_base = False
    return "".join(shapes)


def read_back(shown: str, *, ascii_only: bool = False) -> str:
    """The face that `token_label` shows like this; text that is not notation is unchanged."""
    if shown == EMPTY:
        return ""
    units = _UNIT.findall(shown)
    mark = "_" if ascii_only else _SPACE
    before = len(list(takewhile(mark.__eq__, units)))
    after = len(list(takewhile(mark.__eq__, reversed(units[before:]))))
    body = units[before : len(units) - after]
    return escape_bytes(" " * before + "".join(map(_meaning, body)) + " " * after)


def cells(text: str) -> int:
    """How many terminal columns `text` takes, once `visible`."""
    return cell_len(text)


def fit(text: str, width: int, *, ellipsis: str = "…") -> str:
    """Visible text cropped or padded to exactly `width` columns.

    A wide character that would be cut in half is left out and padded for. A
    width too small for the ellipsis crops without one.
    """
    text = text.translate(_JOINERS)
    missing = width - cell_len(text)
    if missing >= 0:
        return text + " " * missing
    ending = ellipsis if cell_len(ellipsis) <= width else ""
    room = width - cell_len(ending)
    end = 0
    for character in text:
        room -= get_character_cell_size(character)
        if room < 0:
            break
        end += 1
    cropped = text[:end] + ending
    return cropped + " " * (width - cell_len(cropped))


def wrapped(text: str, width: int) -> list[str]:
    """Visible text in lines of at most `width` columns, broken at spaces, without losing any.

    A word longer than a line is broken at the end of the line.
    """
    lines, line = [], ""
    for word in text.split(" "):
        joined = f"{line} {word}" if line else word
        if cells(joined) <= width:
            line = joined
            continue
        if line:
            lines.append(line)
        line = word
        while cells(line) > width:
            head = fit(line, width, ellipsis="").rstrip(" ")
            if not head:  # not one character fits
                return [*lines, line]
            lines.append(head)
            line = line.translate(_JOINERS)[len(head) :]
    return [*lines, line]


def has_shape(character: str) -> bool:
    """Whether this character is visible in a terminal; spaces are not."""
    # Z: other spaces look like the plain one, or end the line.
    return unicodedata.category(character)[0] not in "CZ" and character not in _UNSEEN


def neutralise_formula(text: str) -> str:
    """A text cell of a CSV file that no spreadsheet runs as a formula.

    Only for columns of text: numbers must stay numbers.
    """
    return f"'{text}" if _FORMULA.match(text) else text


def _is_mark(character: str) -> bool:
    return unicodedata.category(character)[0] == "M" or get_character_cell_size(character) == 0


def _escaped(character: str, ascii_only: bool) -> str:
    if character in "\n\t\r":
        in_ascii = {"\n": r"\n", "\t": r"\t", "\r": r"\r"}
        in_unicode = {"\n": _NEWLINE, "\t": _TAB, "\r": r"\r"}
        return (in_ascii if ascii_only else in_unicode)[character]
    code = ord(character)
    if code < 0x80 or character in _BYTES:
        return f"\\x{code & 0xFF:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _meaning(unit: str) -> str:
    if unit[0] != "\\" or len(unit) == 1:
        return _MEANINGS.get(unit, unit)
    if unit[1] not in "xuU":
        return _MEANINGS.get(unit, unit[1])
    code = int(unit[2:], 16)
    if unit[1] == "x" and code >= 0x80:
        return _BYTES[code - 0x80]
    return chr(code) if code <= sys.maxunicode else unit


def _joined(shapes: list[str]) -> str:
    """The pieces joined, with literal backslashes doubled where they would start an escape."""
    return "".join(
        "\\\\" if shape == "\\" and after[:1] in _ESCAPES else shape
        for shape, after in pairwise([*shapes, ""])
    )
