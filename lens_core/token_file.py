"""A reference as a file of token ids: a JSON list of samples of equal length."""

from __future__ import annotations

import json
import reprlib
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from lens_core.errors import SampleError, one_line


def read_token_file(path: Path, d_vocab: int) -> Int64[Tensor, "samples length"]:
    """A JSON file with a `[samples][length]` list of token ids below `d_vocab`."""
    return torch.tensor(token_rows(path, d_vocab), dtype=torch.int64)


def token_rows(path: Path, d_vocab: int | None) -> list[list[int]]:
    """The same as lists; `d_vocab` of `None`: any id will do."""
    try:
        rows = json.loads(path.read_bytes())
    except OSError as error:
        raise SampleError(f"token file {path} cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise SampleError(f"token file {path} is not JSON: nested too deeply") from error
    except ValueError as error:  # JSON, its encoding, or Python's limit on the digits of an integer
        raise SampleError(f"token file {path} is not JSON: {one_line(error)}") from error

    if not isinstance(rows, list) or not rows:
        raise SampleError(
            f"token file {path} must hold a [samples][length] list of token ids, "
            f"not {reprlib.repr(rows)}"
        )
    for sample, row in enumerate(rows):
        _check_sample(f"token file {path}, sample {sample}", row, rows[0], d_vocab)
    return rows


def _check_sample(where: str, row: Any, first: Any, d_vocab: int | None) -> None:
    if not isinstance(row, list) or not row:
        raise SampleError(f"{where}: must be a list of token ids, not {reprlib.repr(row)}")
    if len(row) != len(first):
        raise SampleError(
            f"{where}: has {len(row)} tokens, sample 0 has {len(first)}: "
            "a reference has no padding, make them equally long"
        )
    for position, token in enumerate(row):
        if type(token) is not int:  # true and false are integers to Python
            raise SampleError(
                f"{where}, position {position}: {reprlib.repr(token)} is not an integer token id"
            )
        if d_vocab is not None and not 0 <= token < d_vocab:
            raise SampleError(
                f"{where}, position {position}: {reprlib.repr(token)} is not a token id "
                f"of the model (0 to {d_vocab - 1})"
            )
