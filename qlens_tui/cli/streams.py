"""The standard streams of the `qlens` process, in whatever state the shell left them.

Python has no stream for a descriptor that is closed (`>&-`), so writing a result fails with an
`AttributeError`, and the next file that is opened gets the descriptor and everything that is
written to it. Errors of a stream also look like those of any file. Here every stream exists:

    input     closed or unreadable: empty
    output    cannot be written: `OutputError`, where it is written; what follows is dropped
    errors    cannot be written: dropped, as there is nowhere to say so
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any

from qlens_tui.cli.exits import OutputError


class _Input(io.FileIO):
    def readinto(self, buffer: Any) -> int | None:
        try:
            return super().readinto(buffer)
        except OSError:
            return 0


class _Output(io.FileIO):
    failed = False

    def write(self, data: Any) -> int:
        if self.failed:  # the interpreter writes again what is left when it ends
            return len(data)
        try:
            return super().write(data)
        except BrokenPipeError:
            self.failed = True
            raise  # the reader closed the pipe
        except OSError as error:
            self.failed = True
            raise OutputError(error) from None


class _Errors(io.FileIO):
    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def prepare_streams() -> None:
    """Replace `sys.stdin`, `sys.stdout` and `sys.stderr` of this process."""
    # In this order, so that each gets its own descriptor: a new file gets the lowest that is free.
    # A closed output cannot be written, and reading a closed input ends at once.
    source = _descriptor(sys.stdin, os.O_RDONLY)
    target = _descriptor(sys.stdout, os.O_RDONLY)
    errors = _descriptor(sys.stderr, os.O_WRONLY)
    sys.stdin = _text(io.BufferedReader(_Input(source, "r", closefd=False)), sys.stdin)
    sys.stdout = _text(io.BufferedWriter(_Output(target, "w", closefd=False)), sys.stdout)
    sys.stderr = _text(
        io.BufferedWriter(_Errors(errors, "w", closefd=False)), sys.stderr, line_buffering=True
    )


def _descriptor(stream: Any, mode: int) -> int:
    """The descriptor of a stream; a new one, of the null device, if it is closed."""
    if stream is not None:
        return int(stream.fileno())
    descriptor = os.open(os.devnull, mode)
    os.set_inheritable(descriptor, True)
    return descriptor


def _text(buffer: Any, before: Any, *, line_buffering: bool = False) -> io.TextIOWrapper:
    """A text stream with the encoding of the one before."""
    return io.TextIOWrapper(
        buffer,
        encoding=getattr(before, "encoding", "utf-8"),
        errors=getattr(before, "errors", "backslashreplace"),
        line_buffering=line_buffering or buffer.isatty(),
    )
