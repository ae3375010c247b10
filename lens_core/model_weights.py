"""A checkpoint's weights as stored, and their fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lens_core.model_files import weights_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def stored_tensors(directory: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a directory's weights, one at a time, as stored."""
    from safetensors import safe_open

    for file in weights_of(directory):
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118
                    yield name, tensors.get_tensor(name)
        else:
            yield from torch.load(file, map_location="cpu", weights_only=True, mmap=True).items()


def weights_fingerprint(hf_model: PreTrainedModel) -> str:
    """Sha256 over the configuration and every weight's name, type, shape and bytes (hex)."""
    incidental = {"_name_or_path", "_attn_implementation_internal", "transformers_version",
                  "_commit_hash", "torch_dtype", "dtype", "use_cache", "output_attentions",
                  "output_hidden_states", "_model_name_or_path"}  # fmt: skip
    config = {k: v for k, v in hf_model.config.to_dict().items() if k not in incidental}
    state: Mapping[str, Tensor] = hf_model.state_dict()
    tied: dict[tuple[int, tuple[int, ...]], str] = {}
    unique = [
        (name, tensor)
        for name, tensor in sorted(state.items())
        if tied.setdefault((tensor.data_ptr(), tuple(tensor.shape)), name) == name
    ]

    def digest(item: tuple[str, Tensor]) -> bytes:
        name, tensor = item
        flat = tensor.detach().contiguous().cpu().reshape(-1)
        head = f"{name}:{tensor.dtype}:{tuple(tensor.shape)}:".encode()
        raw = flat.view(torch.uint8).numpy().data if flat.numel() else b""
        return hashlib.sha256(head + hashlib.sha256(raw).digest()).digest()

    # hashlib releases the GIL, so threads hash tensors side by side.
    with ThreadPoolExecutor(max_workers=8) as pool:
        digests = list(pool.map(digest, unique))
    whole = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for part in digests:
        whole.update(part)
    return whole.hexdigest()
