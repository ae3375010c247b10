"""What can go wrong, said in one line that names the thing and the fix.

The core raises only `LensError`s for what a user, a file or a machine can
cause; a front end turns one into a line on standard error and `exit_code`.
Anything else that escapes is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

_HUB_TOKEN = re.compile(r"\bhf_\w+")


class QlensWarning(UserWarning):
    """Something that may be wrong and that only the user can know."""


class LensError(Exception):
    """A failure that its message explains; `exit_code` is the process's status (1: failed)."""

    exit_code: ClassVar[int] = 1


class UsageError(LensError):
    """A wrong argument or configuration (status 2): layer out of range, unknown key, bad token."""

    exit_code: ClassVar[int] = 2


class ConfigError(UsageError):
    """The configuration file cannot be read or does not say what it must."""


class ModelError(LensError):
    """The model cannot be loaded, or does not decompose into residual blocks."""


class DictionaryError(LensError):
    """A dictionary cannot be loaded, or does not belong to the model."""


class SampleError(LensError):
    """The reference sample cannot be read or is too short."""


class StoreError(LensError):
    """The cache directory is missing, full, damaged, or not writable."""


class DamagedError(StoreError):
    """A file of the cache is missing, cut short, or not what was written."""


class OperatorError(LensError):
    """Operators are missing or do not fit what is asked of them."""


def one_line(error: BaseException | str, limit: int = 200) -> str:
    """What somebody else's error says, on one line of at most `limit` characters.

    Tokens of the Hugging Face hub are taken out; an error without words gives its type.
    """
    text = _HUB_TOKEN.sub("hf_...", " ".join(str(error).split()))
    text = text or type(error).__name__
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def cannot_read(error: OSError, path: Path) -> StoreError:
    """What to say of a file that is there and that the system does not let us read."""
    return StoreError(f"cannot read {path}: {error.strerror or one_line(error)}")
