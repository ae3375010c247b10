"""Load a directory in the layout of transformers: weights, tokenizer, and all checks.

Only safetensors and PyTorch archives under `weights_only` are read, and no code from a
checkpoint is run. transformers fills missing weights with random numbers and only logs it;
here that is an error.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lens_core.errors import ModelError
from lens_core.foreign import in_plain_words
from lens_core.memory import is_out_of_memory
from lens_core.model_files import TOKENIZERS, read_model_config, weights_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_OFFLINE: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


def open_pretrained(directory: Path, name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model in `directory`, in float32 on the CPU; messages call it `name`.

    Raises:
        ModelError: something is missing, damaged, or not supported by transformers.
    """
    from transformers import AutoModelForCausalLM

    _demand_known_type(directory, name)
    _demand_readable(weights_of(directory))
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=torch.float32,
            attn_implementation="eager",
            output_loading_info=True,
            **_OFFLINE,
        )
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(f"{name} cannot be loaded: {in_plain_words(error)}") from error
    demand_all_weights(found, name)
    return model, open_tokenizer(directory, name)


def open_tokenizer(directory: Path, name: str) -> PreTrainedTokenizerBase:
    """The tokenizer in a model's directory; `name` is for messages.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    try:
        found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(directory, **_OFFLINE)
    except Exception as error:  # transformers and tokenizers raise many types
        if not any((directory / file).is_file() for file in TOKENIZERS):
            raise ModelError(f"{name} has no tokenizer: copy its {TOKENIZERS[0]} there") from error
        raise ModelError(
            f"the tokenizer of {name} cannot be read: {in_plain_words(error)}"
        ) from error
    return found


def demand_all_weights(loading_info: dict[str, Any], name: str) -> None:
    """Refuse a model for which transformers made up weights."""
    missing = sorted(loading_info.get("missing_keys", ()))
    if missing:
        more = f" and {len(missing) - 1} more tensors" if len(missing) > 1 else ""
        raise ModelError(
            f"the weights of {name} lack {missing[0]}{more}: the checkpoint is incomplete, or its "
            "config.json describes another model"
        )


def _demand_known_type(directory: Path, name: str) -> None:
    from transformers import CONFIG_MAPPING

    content = read_model_config(directory)
    kind = content["model_type"]
    if kind in CONFIG_MAPPING:
        return
    if content.get("auto_map"):
        raise ModelError(
            f"{name} is a {kind} model that brings its own code, which qlens never runs: use a "
            "model that transformers has"
        )
    raise ModelError(
        f"{name} is a {kind} model, which transformers {version('transformers')} does not know: "
        "check model_type in its config.json"
    )


def _demand_readable(weights: list[Path]) -> None:
    """Open the headers, so that an error names the damaged file."""
    from safetensors import SafetensorError, safe_open

    for file in weights:
        if file.suffix != ".safetensors":
            continue
        try:
            with safe_open(file, "pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file} cannot be read: {in_plain_words(error)}") from error
