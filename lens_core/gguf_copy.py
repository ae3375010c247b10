"""GGUF models, dequantised once and kept as safetensors in the cache.

Dequantising takes seconds for 135M parameters. The copy is keyed by the file's content, not
its name, and is checked against the fingerprint stored with it whenever it is loaded.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lens_core.directories import LOCKS, MODELS
from lens_core.errors import ModelError, StoreError
from lens_core.foreign import in_plain_words
from lens_core.gguf_reading import header_read_once
from lens_core.memory import is_out_of_memory
from lens_core.model_weights import weights_fingerprint
from lens_core.pretrained import demand_all_weights, open_pretrained
from lens_core.storage.checksum_lists import write_checksums
from lens_core.storage.disk_space import cannot_write
from lens_core.storage.files import build_lock, temporary_beside, write_text_atomically

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_RECORD = "qlens.json"
_PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)


def open_gguf(
    gguf: Path, name: str, cache_dir: Path, say: Callable[[str], None]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    """The model in a GGUF file, its tokenizer, and the fingerprint of its weights.

    Raises:
        ModelError: the file cannot be read, or transformers does not read its architecture
        from GGUF.
        StoreError: the cache cannot hold the copy.
    """
    if _PART.search(gguf.name):
        raise ModelError(
            f"{gguf} is one part of a split GGUF: join the parts with llama-gguf-split --merge"
        )
    try:
        with gguf.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{gguf} cannot be read: {in_plain_words(error)}") from error
    directory = cache_dir / MODELS / f"gguf-{content[:32]}"
    kept = _load_copy(directory, name)
    if kept is None:
        # Another process that starts at the same time waits for this copy.
        with build_lock(cache_dir / LOCKS / directory.name, wait=True):
            kept = _load_copy(directory, name)
            if kept is None:
                say(f"dequantising {gguf.name}, once")
                _dequantise(gguf, directory)
                say("loading the dequantised weights")
                kept = _load_copy(directory, name)
    if kept is None:
        raise StoreError(f"{directory} does not hold what was just written: check the disk")
    return kept


def _load_copy(
    directory: Path, name: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str] | None:
    """The dequantised copy, or `None` where it is missing, half-written or damaged."""
    record = directory / _RECORD
    if not record.is_file():
        return None
    try:
        expected = json.loads(record.read_text("utf-8"))["fingerprint"]
        model, tokenizer = open_pretrained(directory, name)
    except (ModelError, OSError, ValueError, KeyError):
        return None
    if weights_fingerprint(model) != expected:
        return None
    return model, tokenizer, str(expected)


def _dequantise(gguf: Path, directory: Path) -> None:
    model, tokenizer = _read(gguf)
    # transformers refuses to save a model that it still considers quantised.
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    temporary = temporary_beside(directory)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        # Saving may drop or rename entries, so fingerprint what loading returns.
        saved, _ = open_pretrained(temporary, gguf.name)
        record = {"source": gguf.name, "fingerprint": weights_fingerprint(saved)}
        write_text_atomically(temporary / _RECORD, json.dumps(record) + "\n")
        write_checksums(temporary)
        if directory.exists():
            shutil.rmtree(directory)
        os.replace(temporary, directory)
    except OSError as error:
        raise cannot_write(error, directory) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _read(gguf: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # Through a link in an empty folder: transformers would also read other files next to the
    # GGUF (a configuration, a tokenizer), on which the copy's key does not depend.
    with tempfile.TemporaryDirectory(prefix="qlens-gguf-") as folder, header_read_once():
        (Path(folder) / "model.gguf").symlink_to(gguf)
        options: dict[str, Any] = {"gguf_file": "model.gguf", "local_files_only": True}
        try:
            model, found = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, output_loading_info=True, **options
            )
            tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            said = in_plain_words(error).replace(f"{folder}/model.gguf", gguf.name)
            raise ModelError(f"{gguf.name} cannot be read as a GGUF model: {said}") from error
    demand_all_weights(found, gguf.name)
    return model, tokenizer
