"""Errors, each with a message of one line that names the thing and the fix.

For problems that a user, a file or a machine can cause, the core raises only `LensError`s; a
front end turns one into a line on standard error and `exit_code`. Any other exception is a bug
in qlens and keeps its traceback.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

_HUB_TOKEN = re.compile(r"\bhf_\w+")


class QlensWarning(UserWarning):
    """A possible problem that only the user can judge."""


class LensError(Exception):
    """A failure that its message explains; `exit_code` is the process's status (1: failed)."""

    exit_code: ClassVar[int] = 1


class UsageError(LensError):
    """A wrong argument or configuration (status 2): layer out of range, unknown key, bad token."""

    exit_code: ClassVar[int] = 2


class ConfigError(UsageError):
    """The configuration file cannot be read, or is not a valid configuration."""


class ModelError(LensError):
    """The model cannot be loaded, or does not decompose into residual blocks."""


class DictionaryError(LensError):
    """A dictionary cannot be loaded, or does not belong to the model."""


class LensFileError(LensError):
    """The parameters of a lens cannot be read, or do not belong to the model."""


class SampleError(LensError):
    """The reference sample cannot be read or is too short."""


class StoreError(LensError):
    """The cache directory is missing, full, damaged, or not writable."""


class DamagedError(StoreError):
    """A stored file is missing, cut short, or not what was written."""


class OperatorError(LensError):
    """Operators are missing, or cannot answer what is asked."""


def one_line(error: BaseException | str, limit: int = 200) -> str:
    """The message of any exception, on one line of at most `limit` characters.

    Hugging Face access tokens are removed; an exception without a message gives its type.
    """
    text = _HUB_TOKEN.sub("hf_...", " ".join(str(error).split()))
    text = text or type(error).__name__
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def cannot_read(error: OSError, path: Path) -> StoreError:
    """The error for a file that exists but cannot be read."""
    return StoreError(f"cannot read {path}: {error.strerror or one_line(error)}")
