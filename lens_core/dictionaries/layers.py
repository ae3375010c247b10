"""Layer numbers in names: patterns with `{layer}`, hooks, and the folders that match a pattern.

Torch-free, so that a layer or feature which does not exist is refused before a model is loaded.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from lens_core.errors import DictionaryError, UsageError

LAYER = "{layer}"


def at_layer(pattern: str, layer: int) -> str:
    """`pattern` with `{layer}` filled in."""
    return pattern.replace(LAYER, str(layer))


def matching(pattern: str, names: Iterable[str]) -> tuple[int, ...]:
    """The layers for which `pattern` is among `names`; every `{layer}` is the same number."""
    head, *rest = (re.escape(part) for part in pattern.split(LAYER))
    regex = re.compile(head + r"(0|[1-9]\d*)" + r"\1".join(rest))
    found = (regex.fullmatch(name) for name in names)
    return tuple(sorted({int(match.group(1)) for match in found if match}))


def named_layer(name: str) -> tuple[int, ...]:
    """The layer in an id or hook name without `{layer}`, such as `blocks.8.hook_resid_pre`."""
    match = re.search(r"(?:blocks\.|layers?[._]?|^l)(\d+)", name)
    return (int(match.group(1)),) if match else ()


def ranges(layers: Iterable[int]) -> str:
    """Ascending numbers with runs as ranges, such as `0-11, 20`."""
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ", ".join(f"{a}-{b}" if a < b else str(a) for a, b in runs)


def folders_matching(pattern: str) -> tuple[int, ...]:
    """The layers for which the folder `pattern` exists.

    Raises:
        DictionaryError: there is none.
    """
    wild = "*".join(glob.escape(part) for part in pattern.split(LAYER))
    found = glob.glob(wild)
    layers = matching(pattern, (path for path in found if Path(path).is_dir()))
    if not layers:
        only_files = bool(matching(pattern, found))
        raise DictionaryError(
            f"no folder matches [dictionary].path {pattern}"
            + (", only files: it takes folders that SAELens saved" if only_files else "")
        )
    return layers


def demand_layer(layer: int, layers: Collection[int]) -> None:
    """Refuse a layer that the dictionary does not have."""
    if layer not in layers:
        has = ", ".join(map(str, layers))
        raise UsageError(f"there is no dictionary for layer {layer}: layers are {has}")


def demand_feature(layer: int, feature: int, n_features: int) -> None:
    """Refuse a feature that the layer does not have."""
    if not 0 <= feature < n_features:
        raise UsageError(
            f"feature {feature} is out of range: layer {layer} has features 0 to {n_features - 1}"
        )
