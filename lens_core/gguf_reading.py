"""Reading the header of a GGUF file fast: the `gguf` package's own reader on a plain array.

A header holds the vocabulary and its merges, 100,000 strings for SmolLM2. The reader takes each
as a slice of a memory map, and transformers reads the header three times and builds its table
of tensor names once per module: 30 seconds of CPU, of which this leaves 6.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np


@cache
def _reader_class() -> Any:
    from gguf import GGUFReader

    class Reader(GGUFReader):  # type: ignore[misc]
        @property
        def data(self) -> np.ndarray[Any, Any]:
            return self._array

        @data.setter
        def data(self, mapped: np.ndarray[Any, Any]) -> None:
            # The same memory, without numpy's bookkeeping of maps at every slice.
            self._array = np.asarray(mapped)

    return Reader


def read_gguf(path: Path) -> Any:
    """A `gguf.GGUFReader` of the file at `path`, which raises errors of many types."""
    return _reader_class()(path)


@contextmanager
def header_read_once() -> Iterator[None]:
    """Let transformers read a GGUF file's header and build its table of names once, inside."""
    import gguf

    before = gguf.GGUFReader, gguf.get_tensor_name_map
    gguf.GGUFReader, gguf.get_tensor_name_map = cache(_reader_class()), cache(before[1])
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = before
