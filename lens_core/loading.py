"""Load a model from its configuration: find it, open it, check it, move it to a device.

`model_files` finds it (hub, directory, GGUF); `pretrained` and `gguf_copy` read it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from lens_core.config import ModelConfig
from lens_core.errors import ModelError, UsageError
from lens_core.gguf_copy import open_gguf
from lens_core.model import ResidualModel
from lens_core.model_files import find_model
from lens_core.model_weights import weights_fingerprint
from lens_core.pretrained import open_pretrained
from lens_core.soundness import unsound

_DTYPES = {"float32": torch.float32, "float64": torch.float64}

Say = Callable[[str], None]
"""Called with a few words about a slow step."""


def choose_device(wanted: str) -> torch.device:
    """The device for `wanted`; `auto` is the GPU with the most free memory, then MPS, then CPU.

    Raises:
        UsageError: the device is not available.
    """
    if wanted == "auto":
        if torch.cuda.is_available():
            free = [torch.cuda.mem_get_info(i)[0] for i in range(torch.cuda.device_count())]
            return torch.device("cuda", free.index(max(free)))
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(wanted)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise UsageError(
                f"device {wanted} is not available ({count} CUDA devices visible): "
                'set [compute].device to "auto" or "cpu"'
            )
        return torch.device("cuda", device.index or 0)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError('device mps is not available: set [compute].device to "auto" or "cpu"')
    return device


def load_model(
    config: ModelConfig,
    *,
    device: torch.device | str,
    dtype: str,
    cache_dir: Path,
    offline: bool = False,
    beside: Path | None = None,
    say: Say | None = None,
) -> ResidualModel:
    """Load `config.name` with its tokenizer and check that its blocks add up.

    `beside` is the configuration's folder, for advice on a folder written like a hub id.

    Raises:
        ModelError: it cannot be loaded, or is not a decoder of attention and MLP blocks.
        StoreError: the cache cannot hold the dequantised weights.
    """
    import transformers

    if torch.device(device).type == "mps" and dtype == "float64":
        raise UsageError('Apple GPUs have no float64: set [compute].dtype to "float32"')
    transformers.logging.set_verbosity_error()
    say = say or (lambda _text: None)
    say(f"loading {config.name}")
    path = find_model(config, offline=offline, beside=beside)
    if path.is_dir():
        hf_model, tokenizer = open_pretrained(path, config.name)
        # Before moving it to the device: no copy back from a GPU, and no rounding.
        fingerprint = weights_fingerprint(hf_model)
    else:
        hf_model, tokenizer, fingerprint = open_gguf(path, config.name, cache_dir, say)
    if wrong := unsound(hf_model.named_parameters()):
        raise ModelError(f"{config.name} has {wrong}: get its weights again, or check their source")
    hf_model = hf_model.to(device=device, dtype=_DTYPES[dtype])
    say("checking the blocks against the model's own forward pass")
    model = ResidualModel(hf_model, tokenizer, config.name, fingerprint)
    model.check()
    return model
