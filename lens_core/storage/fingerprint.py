"""Keys by content: what a result depends on, as one number.

Two results have one key only if the weights, dictionary, reference, settings and versions
behind them are the same, whatever their files are called. Nothing heavy is imported.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("qlens", "torch", "transformers", "transformer_lens", "sae_lens")


def fingerprint(content: Mapping[str, object]) -> str:
    """Sha256 (hex) of `content` as canonical JSON: the order of keys does not matter.

    Floats count by their exact value, and as floats (1.0 is not 1). What JSON
    would bend into something else (NaN, keys that are not strings) is an error.
    """
    demand_json(content)
    text = json.dumps(content, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def demand_json(value: object) -> None:
    """Refuse what JSON would not give back as it was.

    Raises:
        TypeError: a value is of another type than JSON's, or a key is not a string.
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
    """Versions that a result depends on; nothing is imported to find them out."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found
