"""The `cfg.json` of a SAELens dictionary, from any version of SAELens.

Since version 6 SAELens keeps facts about the model in `metadata`; before, they were mixed with
all other keys, and in the first years had other names. This module lists layers, finds hooks and
names models; the numbers are read by SAELens itself. No torch here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lens_core.dictionaries.foreign_formats import named_format
from lens_core.errors import DictionaryError
from lens_core.foreign import in_plain_words

CFG_FILE = "cfg.json"
WEIGHTS_FILE = "sae_weights.safetensors"

_SOURCE = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_OLDER_NAMES = {"hook_name": "hook_point", "hook_head_index": "hook_point_head_index"}


@dataclass(frozen=True)
class SaeCfg:
    """What a `cfg.json` says about a dictionary; `None` for what it does not say.

    `reads` and `writes` are hooks of TransformerLens, `hf_reads` and `hf_writes` names of
    modules of Hugging Face, `widths` those of its input and output. `function` is the
    activation function, `by_heads` whether it reads single attention heads, `normalization`
    what SAELens does to its input. `folds_norms`: the model that it was trained on had its
    norms' gains folded into the weights after them; `centers`: that model had centred writing
    weights. `neuronpedia` is where Neuronpedia has its features, such as `gpt2-small/8-res-jb`.
    """

    architecture: str
    function: str
    reads: str | None
    writes: str | None
    hf_reads: str | None
    hf_writes: str | None
    widths: tuple[object, ...]
    by_heads: bool
    normalization: str
    model: str | None
    folds_norms: bool
    centers: bool
    neuronpedia: str | None
    training: Mapping[str, str]

    def hook(self, kind: str) -> str | None:
        """What a dictionary of `kind` reads; for a transcoder the Hugging Face name, if given."""
        return (kind == "transcoder" and self.hf_reads) or self.reads

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> SaeCfg:
        """From the file's own keys."""
        metadata = raw.get("metadata")
        tables = [table for table in (metadata, raw) if isinstance(table, Mapping)]

        def said(key: str) -> Any:
            names = (key, _OLDER_NAMES[key]) if key in _OLDER_NAMES else (key,)
            found = (table[name] for table in tables for name in names if name in table)
            return next((value for value in found if value is not None), None)

        def text(key: str) -> str | None:
            return None if said(key) is None else str(said(key))

        def kwargs(key: str) -> Mapping[str, Any]:
            return said(key) if isinstance(said(key), Mapping) else {}

        model_kwargs = kwargs("model_from_pretrained_kwargs")
        function = said("activation_fn") or said("activation_fn_str") or "relu"
        signed = "signed " if kwargs("activation_fn_kwargs").get("signed") else ""
        normalization = said("normalize_activations") or "none"
        if normalization is True:  # older files, from when there was only one
            normalization = "expected_average_only_in"
        reshape = said("reshape_activations") or "none"
        neuronpedia = text("neuronpedia_id") or ""
        training = ("training_architecture", "sae_lens_training_version")
        return cls(
            architecture=text("architecture") or "standard",
            function=f"{signed}{function}",
            reads=text("hook_name"),
            writes=text("hook_name_out"),
            hf_reads=text("hf_hook_name"),
            hf_writes=text("hf_hook_name_out"),
            widths=tuple(raw[name] for name in ("d_in", "d_out") if raw.get(name) is not None),
            by_heads=reshape != "none"
            or said("hook_head_index") is not None
            or "hook_z" in (text("hook_name") or ""),
            normalization=normalization,
            model=text("model_name"),
            folds_norms=bool(model_kwargs.get("fold_ln")),
            centers=bool(model_kwargs.get("center_writing_weights")),
            neuronpedia=neuronpedia if _SOURCE.fullmatch(neuronpedia) else None,
            training={name: said(name) for name in training if isinstance(said(name), str)},
        )


def read_cfg(folder: Path) -> dict[str, Any]:
    """The `cfg.json` of a dictionary in SAELens's disk format, as it was saved.

    Raises:
        DictionaryError: there is no such folder or file, it holds no JSON object, or the
            folder is in the format of another tool.
    """
    try:
        what = "" if folder.is_dir() else "is not a folder"
        what += ", but a file" if folder.is_file() else ""
    except OSError as error:
        what = f"cannot be opened: {in_plain_words(error)}"
    if what:
        raise DictionaryError(f"[dictionary].path {folder} {what}")
    if (format_name := named_format(folder)) is not None:
        raise DictionaryError(f"{folder} {format_name}")
    file = folder / CFG_FILE
    try:
        cfg = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DictionaryError(
            f"{folder} holds no {CFG_FILE}: [dictionary].path takes a folder that SAELens saved "
            f"({CFG_FILE} and {WEIGHTS_FILE})"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise DictionaryError(f"{file} cannot be read as JSON: {in_plain_words(error)}") from error
    if not isinstance(cfg, dict):
        raise DictionaryError(f"{file} does not hold a JSON object")
    return cfg
