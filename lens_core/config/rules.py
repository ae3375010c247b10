"""What a single configuration value may be, and how a refused value is shown.

A rule is a sentence and a test, declared with its field (`setting`), so that the same rules
apply to the file, the command line and a notebook.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

from lens_core.errors import ConfigError
from lens_core.names import is_url

ONE_LINE = re.compile(r"(?=.*[^ ])[^\x00-\x1f\x7f]+")


@dataclass(frozen=True)
class Rule:
    """What a value may be: described by `allowed`, tested by `accepts`.

    `instead` is what to write for a refused value, "" where it is not known.
    """

    allowed: str
    accepts: Callable[[Any], bool]
    instead: Callable[[Any], str] = lambda _: ""


def setting(rule: Rule, default: Any = MISSING) -> Any:
    """A field of a section; without a default the file must give it."""
    return field(default=default, metadata={"rule": rule})


def integer(minimum: int) -> Rule:
    # `type(...) is int`, because `bool` is a subclass of `int`, but true is not a TOML integer.
    return Rule(f"an integer of at least {minimum}", lambda v: type(v) is int and v >= minimum)


def one_of(*choices: str, why: str = "") -> Rule:
    quoted = [f'"{choice}"' for choice in choices]
    allowed = " or ".join([", ".join(quoted[:-1]), quoted[-1]])
    return Rule(allowed + why, lambda v: isinstance(v, str) and v in choices)


def _is_layers(value: object) -> bool:
    if not isinstance(value, tuple):
        return isinstance(value, str) and value == "all"
    valid = all(type(layer) is int and layer >= 0 for layer in value)
    return valid and 0 < len(value) == len(set(value))


def is_line(value: object) -> bool:
    return isinstance(value, str) and ONE_LINE.fullmatch(value) is not None


def is_name(value: object) -> bool:
    """A string on one line that is not a web address."""
    return is_line(value) and not is_url(str(value))


LINE = Rule("a non-empty string on one line", is_line)
PATH = Rule(
    "a path or package:PACKAGE/FOLDER",
    lambda v: is_name(str(v)) if isinstance(v, Path) else is_name(v),
)
FILE = Rule(
    "the path of a file or a folder",
    lambda v: is_name(str(v)) if isinstance(v, Path) else is_name(v),
)
LAYERS = Rule('"all" or a list of distinct layer numbers, at least one', _is_layers)
FLAG = Rule("true or false", lambda v: isinstance(v, bool))
SEED = Rule("an integer from 0 to 2^63 - 1", lambda v: type(v) is int and 0 <= v < 1 << 63)
BATCH = Rule(
    '"auto" or an integer of at least 1',
    lambda v: v == "auto" if isinstance(v, str) else type(v) is int and v >= 1,
)
MEMORY = Rule(
    '"auto" or a number of GiB above 0',
    lambda v: (
        v == "auto" if isinstance(v, str) else type(v) in (int, float) and 0 < v < float("inf")
    ),
)
RELEASE_AFTER = Rule(
    '"auto", "never" or a number of minutes above 0',
    lambda v: (
        v in ("auto", "never")
        if isinstance(v, str)
        else type(v) in (int, float) and 0 < v < float("inf")
    ),
)
DEVICE = Rule(
    '"auto", "cpu", "mps", "cuda" or "cuda:N"',
    lambda v: (
        isinstance(v, str) and re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,3})?", v) is not None
    ),
)


class Section:
    """A section of the file; checks its rules on construction."""

    section: ClassVar[str]

    def __post_init__(self) -> None:
        for f in fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            if value is not None or f.default is not None:
                check(self.section, f.name, value, f.metadata["rule"])
        self.check_together()

    def check_together(self) -> None:
        """Raise if keys that are valid one by one contradict each other."""


def rules_of(section: type[Section]) -> dict[str, Rule]:
    """The rule of every key of `section`."""
    return {f.name: f.metadata["rule"] for f in fields(section)}  # type: ignore[arg-type]


def check(section: str, key: str, value: object, rule: Rule) -> None:
    """Refuse a value that `rule` does not accept with a `ConfigError`."""
    if not rule.accepts(value):
        instead = rule.instead(value)
        raise ConfigError(
            f"[{section}].{key} must be {rule.allowed}, got {shown(value)}"
            f"{f': write {instead}' if instead else ''}"
        )


def shown(value: object) -> str:
    """A value as TOML would write it, on one line, escaped and shortened."""
    if isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, int):
        text = str(value) if value.bit_length() < 64 else f"{value:#x}"
    elif isinstance(value, str):
        text = "".join(
            c if c.isprintable() else json.dumps(c)[1:-1].replace("\x7f", "\\u007f")
            for c in json.dumps(value, ensure_ascii=False)
        )
    elif isinstance(value, list | tuple):
        text = f"[{', '.join(shown(item) for item in value[:8])}{', ...' * (len(value) > 8)}]"
    elif isinstance(value, Mapping):
        text = "a table"
    else:
        text = str(value)
    return text if len(text) <= 80 else f"{text[:76]} ..."
