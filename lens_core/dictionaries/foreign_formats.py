"""Dictionaries of other tools: recognised by their files, refused with a way to convert them.

A format that gets a reader (`formats.FORMATS`) is removed from this list.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

_AS_SAELENS = "write them with a cfg.json of SAELens as sae_weights.safetensors"


class _Foreign(NamedTuple):
    tool: str
    has: Callable[[Path], bool]
    way: str


def _file(name: str) -> Callable[[Path], bool]:
    return lambda folder: (folder / name).is_file()


_FORMATS = (
    _Foreign(
        "dictionary_learning",
        lambda folder: _file("ae.pt")(folder) and not _file("cfg.json")(folder),
        "its tensors are W_enc = encoder.weight^T, b_enc = encoder.bias, "
        f"W_dec = decoder.weight^T, b_dec = bias: {_AS_SAELENS}",
    ),
    _Foreign(
        "EleutherAI's sparsify",
        _file("sae.safetensors"),
        f"its tensors are W_enc = encoder.weight^T, b_enc = encoder.bias: {_AS_SAELENS} "
        "(architecture topk and its k)",
    ),
    _Foreign(
        "Gemma Scope",
        _file("params.npz"),
        "name SAELens's release of it in [dictionary].release and id, such as "
        "gemma-scope-2b-pt-res-canonical and layer_{layer}/width_16k/canonical",
    ),
    _Foreign(
        "Gemma Scope 2",
        _file("params.safetensors"),
        "name SAELens's release of it in [dictionary].release and id, such as "
        "gemma-scope-2-1b-pt-res-all and layer_{layer}_width_16k_l0_small",
    ),
    _Foreign(
        "circuit-tracer",
        lambda folder: _file("config.yaml")(folder) and any(folder.glob("layer_*.safetensors")),
        f"its tensors have W_enc transposed: {_AS_SAELENS}, one folder per layer",
    ),
)


def named_format(folder: Path) -> str | None:
    """The message for a folder in another tool's format; `None` if the format is not known."""
    for tool, has, way in _FORMATS:
        if has(folder):
            return f"is in the format of {tool}, which qlens does not read: {way}"
    return None
