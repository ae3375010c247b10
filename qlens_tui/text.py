r"""The one place that makes untrusted text printable.

Tokens, notes, file names and messages come from outside and may hold escape
sequences, bidi controls or characters without a shape, which would drive the
terminal or make two tokens look like one. Everything a front end prints from
outside goes through `visible`, and only once: its own escapes would be escaped.

The notation: `␣` for a leading or trailing space, `⏎` and `⇥` for newline and
tab, `\r`, and `\x1b`, `\u202e`, `\U000e0041` for whatever else has no shape of
its own; a combining mark with nothing to sit on gets `◌`. In ASCII: `_`, `\n`,
`\t`, and escapes for all of the rest. It can be read back: a backslash of the
text itself is doubled where what follows would make an escape of it, and a
marker of the text itself (`␣`, or `_` where a space would be marked) is
escaped. So different texts never come out alike.

Cost: one pass over the characters, none for printable ASCII words.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

from rich.cells import cell_len, get_character_cell_size

EMPTY = r"\empty"
_SPACE, _NEWLINE, _TAB, _BASE = "␣", "⏎", "⇥", "◌"
_MEANT = {
    _SPACE: " ", _NEWLINE: "\n", _TAB: "\t", _BASE: "",
    r"\n": "\n", r"\t": "\t", r"\r": "\r", r"\_": "_", r"\\": "\\",
}  # fmt: skip
_SIGN = re.compile(
    rf"[{_SPACE}{_NEWLINE}{_TAB}{_BASE}]|\\(?:[ntr_\\]"
    r"|(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U(00(?:0[0-9a-f]|10)[0-9a-f]{4})))"
)
# What may follow the backslash of an escape: see `_joined`.
_ESCAPES = frozenset("\\xuUrnt_e")
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
# Markers of ours: escaped, lest the text be read as saying what it does not.
_OURS = frozenset(_SPACE + _NEWLINE + _TAB + _BASE)
# Spreadsheets take the full-width forms for operators too.
_FORMULA = re.compile(r" *[=+\-@＝＋－＠]|[\t\r\n]")
# They change the width of their neighbours; `visible` never lets them through.
_JOINERS = {0x200D: None, 0xFE0F: None}


def visible(text: str, *, ascii_only: bool = False) -> str:
    """Any string as one line that a terminal can only print (see the module's notation)."""
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


def meant(shown: str) -> str:
    r"""The text that `visible` shows so, for what people type as they see it.

    In ASCII, `_` is read as itself: whether it marks a space, the text alone does not say.
    """

    def character(found: re.Match[str]) -> str:
        code = found[1] or found[2] or found[3]
        return chr(int(code, 16)) if code else _MEANT[found[0]]

    return _SIGN.sub(character, shown)


def token_label(text: str, *, ascii_only: bool = False) -> str:
    r"""A token as lists show it: `visible`, and `\empty` for a token without characters."""
    return visible(text, ascii_only=ascii_only) or EMPTY


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


def has_shape(character: str) -> bool:
    """Whether a terminal prints this character, and a person sees it; no space is one."""
    # Z: every space looks like the plain one, or ends the line.
    return unicodedata.category(character)[0] not in "CZ" and character not in _UNSEEN


def neutralise_formula(text: str) -> str:
    """A text cell of a CSV file that no spreadsheet will run as a formula.

    For columns of text only: a number must stay one.
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
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _joined(shapes: list[str]) -> str:
    """The shapes in a row, literal backslashes doubled where they would start an escape."""
    return "".join(
        "\\\\" if shape == "\\" and after[:1] in _ESCAPES else shape
        for shape, after in pairwise([*shapes, ""])
    )
