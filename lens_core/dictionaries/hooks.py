"""From the hooks in a dictionary's metadata to its sites on the residual stream.

What each hook means, in the unfolded basis of the checkpoint:

    hook_resid_pre, _mid, _post    the stream
    hook_mlp_in          (read)    the stream in front of ln2
    ln2.hook_normalized  (read)    behind ln2 without its gain and bias
    mlp.hook_in, ln2.hook_out      behind the whole of ln2; without gain and bias if the
                         (read)    dictionary was trained on a model with `fold_ln`
    mlp.hook_out         (write)   in front of the MLP's post-norm
    hook_mlp_out, ln2_post.hook_out (write)  behind it: what is added to the stream

TransformerLens has `hook_normalized` in front of the norm's gain, and Gemma Scope's
transcoders, which name it, were trained with the gain folded into the MLP
(arXiv 2408.05147v2, page 18). The name of a Hugging Face module overrides that of a hook:
SAELens calls the input of Gemma Scope 2's transcoders `hook_mlp_in`, but they read
`pre_feedforward_layernorm.output`, gain included.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from lens_core.dictionaries.saelens_cfg import SaeCfg
from lens_core.errors import DictionaryError

if TYPE_CHECKING:
    from lens_core.dictionaries.feature_dictionary import DictionaryHost, ReadNorm, WriteNorm

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
_READ_HERE = ": qlens reads dictionaries of the residual stream, and transcoders of MLPs"


class Place(NamedTuple):
    """Where on the stream a dictionary reads and writes, and the hooks that say so."""

    layer: int
    read_site: int
    write_site: int
    read_norm: ReadNorm
    write_norm: WriteNorm
    reads: str
    writes: str


def refuse_hooks(cfg: SaeCfg, kind: str, name: str) -> None:
    """Refuse a dictionary whose hooks are not residual or MLP sites of one layer.

    Raises:
        DictionaryError: with the hook.
    """
    if cfg.by_heads:
        raise DictionaryError(f"{name} reads single attention heads ({cfg.reads}){_READ_HERE}")
    reads = cfg.hook(kind)
    layer, read = layer_and_point(reads, name)
    if kind == "sae":
        if read not in _RESIDUAL:
            raise DictionaryError(f"{name} is an autoencoder of {reads}{_READ_HERE}")
        return
    writes = cfg.hf_writes or cfg.writes
    if writes is None:
        raise DictionaryError(
            f"{name} names no hook to write to: its cfg.json must hold hook_name_out, such as "
            f'"blocks.{layer}.hook_mlp_out"'
        )
    write_layer, write = layer_and_point(writes, name)
    if write_layer != layer:
        raise DictionaryError(
            f"{name} reads {reads} and writes to {writes}: qlens does not read transcoders "
            "across layers"
        )
    if read not in _READS:
        raise DictionaryError(f"{name} reads {reads}, which is not an input of an MLP{_READ_HERE}")
    if write not in _WRITES_IN_FRONT + _WRITES_BEHIND:
        raise DictionaryError(
            f"{name} writes to {writes}, which is not an output of an MLP{_READ_HERE}"
        )


def place(cfg: SaeCfg, kind: str, name: str, model: DictionaryHost) -> Place:
    """The sites of the dictionary `name` with configuration `cfg`.

    Raises:
        DictionaryError: as `refuse_hooks`; or the model lacks a norm that the hook names.
    """
    refuse_hooks(cfg, kind, name)
    reads = str(cfg.hook(kind))
    layer, read = layer_and_point(reads, name)
    if kind == "sae":
        site = 2 * layer + _RESIDUAL[read]
        return Place(layer, site, site, "none", "none", reads, reads)
    writes = str(cfg.hf_writes or cfg.writes)
    _, write = layer_and_point(writes, name)
    has_post_norm = layer < model.n_layers and model.mlp_post_norm(layer) is not None
    if write in _WRITES_BEHIND and write != "hook_mlp_out" and not has_post_norm:
        raise DictionaryError(
            f"{name} writes behind a post-norm ({writes}), which {model.name} does not have: "
            "check [model].name"
        )
    return Place(
        layer=layer,
        read_site=2 * layer + 1,
        write_site=2 * layer + 2,
        read_norm="ln2_no_gain" if cfg.folds_norms and read in _FOLDABLE else _READS[read],
        write_norm="ln2_post" if write in _WRITES_IN_FRONT and has_post_norm else "none",
        reads=reads,
        writes=writes,
    )


def layer_and_point(hook: str | None, name: str) -> tuple[int, str]:
    """The layer in `blocks.3.hook_resid_pre` or `model.layers.3.mlp.input`.

    Raises:
        DictionaryError: there is no hook, or it names no layer.
    """
    if hook is None:
        raise DictionaryError(
            f"{name} names no hook to read: its cfg.json must hold hook_name, such as "
            '"blocks.8.hook_resid_post"'
        )
    match = re.fullmatch(r"(?:blocks|(?:\w+\.)*layers)\.(\d+)\.(.+)", hook)
    if match is None:
        raise DictionaryError(f"{name} is of {hook}, which names no layer{_READ_HERE}")
    return int(match.group(1)), match.group(2)
