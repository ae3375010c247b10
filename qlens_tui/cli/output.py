"""Standard output for results, standard error for everything else.

A result is either one JSON document or text for people. Nothing else, such as a library's
messages, may be written there: while a command works, `sys.stdout` *is* standard error. JSON is
ASCII with every control character escaped, and `null` for numbers that are not finite. All
untrusted text goes through `qlens_tui.text` before it reaches a terminal. If only ASCII may be
written (`qlens_tui.terminal`), the streams' encoding is ASCII, which also applies to libraries
and progress bars.
"""

from __future__ import annotations

import json
import math
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import cached_property
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, TextIO

from qlens_tui.terminal import is_ascii

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


class Output:
    """The two streams of one command."""

    def __init__(self) -> None:
        self._out, self._err = sys.stdout, sys.stderr
        for stream in (self._out, self._err):
            encoding = "ascii" if is_ascii(stream) else None
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(encoding=encoding, errors="backslashreplace")

    def write_ascii(self) -> None:
        """From now on write only ASCII, whatever the terminal can show."""
        for stream in (self._out, self._err):
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(encoding="ascii", errors="backslashreplace")

    @cached_property
    def console(self) -> Console:
        """The console for results for people."""
        return _console(self._out)

    @cached_property
    def errors(self) -> Console:
        """The console for progress."""
        return _console(self._err)

    @property
    def ascii_only(self) -> bool:
        """Whether only ASCII goes to standard output."""
        return is_ascii(self._out)

    def shown(self, text: str) -> str:
        """Untrusted text in the printable form for standard output."""
        from qlens_tui.text import visible

        return visible(text, ascii_only=self.ascii_only)

    def show(self, *parts: RenderableType) -> None:
        """Print a result for people, without trailing spaces."""
        with self.console.capture() as drawn:
            for part in parts:
                self.console.print(part)
        self._out.write("".join(f"{line.rstrip()}\n" for line in drawn.get().splitlines()))
        self._out.flush()

    def text(self, text: str) -> None:
        """Print text for other programs as it is: lines are not wrapped."""
        self._out.write("".join(f"{self.shown(line)}\n" for line in text.splitlines()))
        self._out.flush()

    def document(self, content: Mapping[str, Any] | Sequence[Any]) -> None:
        """Print a result for scripts."""
        self._out.write(as_json(content) + "\n")
        self._out.flush()

    def note(self, text: str) -> None:
        """Print a note on standard error."""
        from qlens_tui.text import visible

        shown = visible(text, ascii_only=is_ascii(self._err))
        print(f"qlens: {shown}", file=self._err, flush=True)

    def step(self, text: str) -> None:
        """Say what is being done, but only on a terminal, not in a log."""
        if self._err.isatty():
            self.note(text)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Keep output and warnings of libraries off standard output."""

        def warn(message: Warning | str, category: type[Warning], *_where: object) -> None:
            # By name: importing the class would import torch. Warnings of other libraries are
            # about our use of them, which a user cannot change.
            if category.__name__ == "QlensWarning":
                self.note(f"warning: {message}")

        with redirect_stdout(self._err), warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.simplefilter("default")
                warnings.showwarning = warn  # type: ignore[assignment]
            yield


def as_json(content: Mapping[str, Any] | Sequence[Any]) -> str:
    """One line of JSON in printable ASCII."""
    text = json.dumps(_finite(content), allow_nan=False)
    return text.replace("\x7f", "\\u007f")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    return Console(file=stream, markup=False, highlight=False, emoji=False)
