"""From the hooks in a dictionary's metadata to its place on the residual stream.

What a hook means, in the unfolded basis of the checkpoint:

    hook_resid_pre, _mid, _post    the stream
    hook_mlp_in          (read)    the stream in front of ln2
    ln2.hook_normalized  (read)    behind ln2 without its gain and bias
    mlp.hook_in, ln2.hook_out      behind the whole of ln2; without gain and bias if the
                         (read)    dictionary was trained on a model with `fold_ln`
    mlp.hook_out         (write)   in front of the MLP's post-norm
    hook_mlp_out, ln2_post.hook_out (write)  behind it: what is added to the stream

TransformerLens has `hook_normalized` in front of the norm's gain, and Gemma Scope's
transcoders, which name it, were trained with the gain folded into the MLP
(arXiv 2408.05147v2, page 18). A name of a Hugging Face module goes before a hook's:
SAELens calls the input of Gemma Scope 2's transcoders `hook_mlp_in`, but they read
`pre_feedforward_layernorm.output`, gain included.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from lens_core.dictionaries.feature_dictionary import DictionaryHost, ReadNorm, WriteNorm
from lens_core.errors import DictionaryError

_RESIDUAL = {"hook_resid_pre": 0, "hook_resid_mid": 1, "hook_resid_post": 2}
_READS: dict[str, ReadNorm] = {
    "hook_resid_mid": "none",
    "hook_mlp_in": "none",
    "ln2.hook_normalized": "ln2_no_gain",
    "ln2.hook_out": "ln2",
    "mlp.hook_in": "ln2",
    "mlp.input": "ln2",
    "pre_feedforward_layernorm.output": "ln2",
}
_FOLDABLE = ("ln2.hook_out", "mlp.hook_in")
_WRITES_IN_FRONT = ("mlp.hook_out", "mlp.output")
_WRITES_BEHIND = ("hook_mlp_out", "ln2_post.hook_out", "post_feedforward_layernorm.output")


class Place(NamedTuple):
    """Where on the stream a dictionary reads and writes, and by which hooks it says so."""

    layer: int
    read_site: int
    write_site: int
    read_norm: ReadNorm
    write_norm: WriteNorm
    reads: str
    writes: str


def place(cfg: Any, kind: str, name: str, model: DictionaryHost) -> Place:
    """The place of the dictionary `name` with SAELens configuration `cfg`.

    Raises:
        DictionaryError: its hooks are no residual or MLP site, or not of one layer.
    """
    metadata = cfg.metadata
    hook = metadata.hook_name
    if cfg.reshape_activations != "none" or metadata.hook_head_index is not None:
        raise DictionaryError(
            f"{name} reads single attention heads ({hook}), which are no residual or MLP site"
        )
    return _autoencoder(hook, name) if kind == "sae" else _transcoder(metadata, name, model)


def _autoencoder(hook: object, name: str) -> Place:
    layer, point = _layer_and_point(hook, name)
    if point not in _RESIDUAL:
        raise DictionaryError(
            f"{name} is an autoencoder of {hook}, which is no point of the residual stream "
            f"({', '.join(_RESIDUAL)})"
        )
    site = 2 * layer + _RESIDUAL[point]
    return Place(layer, site, site, "none", "none", str(hook), str(hook))


def _transcoder(metadata: Any, name: str, model: DictionaryHost) -> Place:
    reads = metadata.hf_hook_name or metadata.hook_name
    writes = metadata.hf_hook_name_out or metadata.hook_name_out
    layer, read = _layer_and_point(reads, name)
    if writes is None:
        raise DictionaryError(f"{name} does not say where it writes (hook_name_out)")
    write_layer, write = _layer_and_point(writes, name)
    if write_layer != layer:
        raise DictionaryError(
            f"{name} reads {reads} and writes to {writes}: a transcoder across layers has no "
            "place here"
        )
    if read not in _READS:
        raise DictionaryError(f"{name} reads {reads}, which is no input of an MLP")
    if write not in _WRITES_IN_FRONT + _WRITES_BEHIND:
        raise DictionaryError(f"{name} writes to {writes}, which is no output of an MLP")
    has_post_norm = layer < model.n_layers and model.mlp_post_norm(layer) is not None
    if write in _WRITES_BEHIND and write != "hook_mlp_out" and not has_post_norm:
        raise DictionaryError(
            f"{name} writes behind a post-norm ({writes}), which {model.name} does not have: "
            "it belongs to another model"
        )
    folded = bool((metadata.model_from_pretrained_kwargs or {}).get("fold_ln"))
    return Place(
        layer=layer,
        read_site=2 * layer + 1,
        write_site=2 * layer + 2,
        read_norm="ln2_no_gain" if folded and read in _FOLDABLE else _READS[read],
        write_norm="ln2_post" if write in _WRITES_IN_FRONT and has_post_norm else "none",
        reads=reads,
        writes=writes,
    )


def _layer_and_point(hook: object, name: str) -> tuple[int, str]:
    """Of `blocks.3.hook_resid_pre`, or of `model.layers.3.mlp.input`."""
    if hook is None:
        raise DictionaryError(f"{name} does not say what it reads (hook_name)")
    match = re.fullmatch(r"(?:blocks|(?:\w+\.)*layers)\.(\d+)\.(.+)", str(hook))
    if match is None:
        raise DictionaryError(f"{name} is of {hook}, which is no residual or MLP site")
    return int(match.group(1)), match.group(2)
