"""Fingerprints: one hash of everything that a result depends on.

Two results have the same key only if their weights, dictionary, reference, settings and versions
are the same; file names do not matter. Nothing heavy is imported.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("qlens", "torch", "transformers", "transformer_lens", "sae_lens")


def fingerprint(content: Mapping[str, object]) -> str:
    """Sha256 (hex) of `content` as canonical JSON: the order of keys does not matter.

    Floats count by their exact value, and as floats (1.0 is not 1). What JSON
    would change (NaN, keys that are not strings) is an error.
    """
    demand_json(content)
    text = json.dumps(content, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def demand_json(value: object) -> None:
    """Refuse values that JSON would change.

    Raises:
        TypeError: a value is not of a JSON type, or a key is not a string.
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"keys must be strings, got {key!r}")
            demand_json(item)
    elif isinstance(value, list | tuple):
        for item in value:
            demand_json(item)
    elif not isinstance(value, str | int | float | None):
        raise TypeError(f"{type(value).__name__} is not a JSON value")


def versions() -> dict[str, str]:
    """The versions that a result depends on, found without importing anything."""
    return {package: _version(package) for package in PACKAGES}


@cache  # it reads and parses a file
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
