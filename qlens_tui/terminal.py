"""What the user's terminal can show, by one rule for both front ends, and whether there is one.

ASCII only, if the user asks for it (`--ascii`), if the locale is not UTF-8, or if the stream has
another encoding. The locale is that of the environment (`LC_ALL`, else `LC_CTYPE`, else `LANG`),
because Python writes UTF-8 in the C locale whatever the terminal supports. If none is set, as in
most containers, UTF-8 is assumed, as in Python. `TERM` says nothing about characters: a dumb
terminal may show all of them, and only the app cannot use it.

Imports nothing heavy.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TextIO

_LOCALES_OF_ASCII = ("C", "POSIX")
# Python sets LC_CTYPE to one of these at startup if the locale is C or POSIX (PEP 538).
_COERCED = ("C.UTF-8", "C.utf8", "UTF-8")


def is_ascii(stream: TextIO, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether only ASCII may be written to a stream."""
    encoding = (getattr(stream, "encoding", None) or "ascii").lower()
    return not encoding.startswith("utf") or not _may_be_utf8(environment)


def why_no_app(
    stdin: TextIO, stdout: TextIO, environment: Mapping[str, str] = os.environ
) -> str | None:
    """Why the app cannot run on these streams; `None` if it can."""
    instead = "in scripts use `qlens show`, `search` or `export`"
    for name, stream in (("input", stdin), ("output", stdout)):
        if not stream.isatty():
            return f"the app needs a terminal, and standard {name} is none: {instead}"
    kind = environment.get("TERM", "")
    if kind in ("", "dumb", "unknown"):
        said = f"TERM is {kind}" if kind else "TERM is not set"
        return (
            f"the app needs a terminal that can move the cursor, and {said}: set it to what the "
            "terminal is, such as xterm-256color"
        )
    return None


def _may_be_utf8(environment: Mapping[str, str]) -> bool:
    """Whether the locale is UTF-8 or not set."""
    said = [environment.get(name, "") for name in ("LC_ALL", "LC_CTYPE", "LANG")]
    if not said[0] and said[1] in _COERCED and said[2] in _LOCALES_OF_ASCII:
        return False
    locale = next(filter(None, said), "")
    _, has_codeset, codeset = locale.partition("@")[0].partition(".")
    if has_codeset:
        return codeset.lower().startswith("utf")
    return locale not in _LOCALES_OF_ASCII
