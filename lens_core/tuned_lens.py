"""The translators of a Tuned Lens, from a file or a folder on disk or on the hub.

    h -> h + A_l h + b_l          the stream that layer `l` reads, as the final norm would read it

(Belrose et al., "Eliciting Latent Predictions from Transformers with the Tuned Lens", arXiv
2303.08112, in the parametrisation of the package tuned-lens.) A file holds `l.weight` (`A_l`) and
`l.bias` for every layer, with or without `layer_translators.` in front: safetensors, or the
`params.pt` that tuned-lens saves, which is only ever opened as tensors. A `config.json` beside it
is compared with the model: its sizes must be the same, and another unembedding is a warning, as in
tuned-lens. Nothing else tells whether a file of the right shape is this model's own.

Cost: reading `n_layers d_model^2` numbers.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lens_core.dictionaries.feature_dictionary import content_hash
from lens_core.errors import LensError, LensFileError, QlensWarning, StoreError
from lens_core.feature_map import FeatureMap
from lens_core.foreign import in_plain_words
from lens_core.hub import Wanted, explained, is_offline
from lens_core.memory import is_out_of_memory
from lens_core.names import hub_folder
from lens_core.soundness import unsound
from lens_core.storage.tensors import open_tensors

FILES = ("params.safetensors", "params.pt")
"""What is looked for in a folder, in this order."""
_CONFIG = "config.json"
_LARGEST_CONFIG = 1 << 20
_NAME = re.compile(r"(?:layer_translators\.)?([0-9]{1,4})\.(weight|bias)", re.ASCII)
_OF_MODEL = "unembed."  # parts of the model, in the state of tuned-lens's whole object


class Host(Protocol):
    """What a Tuned Lens needs of the model it belongs to."""

    @property
    def name(self) -> str: ...
    @property
    def n_layers(self) -> int: ...
    @property
    def d_model(self) -> int: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def W_U(self) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Translators:
    """One translator per layer; `biases[l]` is `None` where the file has none.

    `weights[l]` is `A_l` (rows: what comes out). `sha256` depends on the content alone.
    """

    weights: tuple[Float[Tensor, "d_model d_model"], ...]
    biases: tuple[Float[Tensor, " d_model"] | None, ...]
    source: str
    sha256: str

    def map(self, layer: int | None, *, with_bias: bool) -> FeatureMap:
        """`v -> v + A v`, and `+ b`, of the stream that `layer` reads; `None`: `v -> v`."""
        if layer is None:
            return FeatureMap()
        matrix = self.weights[layer].T.clone()
        matrix.diagonal().add_(1)
        return FeatureMap(matrix, self.biases[layer] if with_bias else None)


def load_translators(source: str, model: Host, *, offline: bool = False) -> Translators:
    """The translators at `source`, which is `[lens].tuned`, with paths resolved.

    Raises:
        LensFileError: they cannot be read, or are not of a model of this size.

    Warns with a `QlensWarning` if they were made with another unembedding.
    """
    file, config = _found(source, offline=offline)
    shown = source if source.startswith("hub:") else str(file)
    if config is not None:
        _compare(config, model, shown)
    tensors = _safetensors(file) if file.suffix == ".safetensors" else _pickled(file)
    weights, biases = _by_layer(tensors, model, shown)
    named = {f"{layer}.weight": each for layer, each in enumerate(weights)}
    named |= {f"{layer}.bias": each for layer, each in enumerate(biases) if each is not None}
    if wrong := unsound(named.items()):
        raise LensFileError(f"{shown} holds {wrong}: get it again, or check how it was saved")
    place: dict[str, Any] = {"device": model.device, "dtype": model.dtype}
    return Translators(
        tuple(each.to(**place) for each in weights),
        tuple(None if each is None else each.to(**place) for each in biases),
        shown,
        content_hash(named, {"kind": "tuned lens"}),
    )


def _found(source: str, *, offline: bool) -> tuple[Path, Path | None]:
    """The file of parameters, and the configuration beside it if there is one."""
    if source.startswith("hub:"):
        return _fetched(source, offline=offline or is_offline())
    path = Path(source)
    if path.is_dir():
        named = next((path / name for name in FILES if (path / name).is_file()), None)
        if named is None:
            raise LensFileError(f"[lens].tuned: {path} has neither {' nor '.join(FILES)}")
        path = named
    if not path.is_file():
        what = "is not a file" if path.exists() else "no such file or folder"
        raise LensFileError(f"[lens].tuned: {what}: {path}")
    config = path.with_name(_CONFIG)
    return path, config if config.is_file() else None


def _fetched(source: str, *, offline: bool) -> tuple[Path, Path | None]:
    """The same on the hub; what is in its cache is not asked for again where possible."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    address = hub_folder(source)
    assert address is not None, "the configuration's rule"
    kind, repository, folder = address

    def fetch(name: str) -> Path | None:
        wanted = Wanted(f"[lens].tuned {source}", repository, "[lens].tuned", kind, name)
        try:
            return Path(
                hf_hub_download(
                    repository,
                    f"{folder}/{name}" if folder else name,
                    repo_type=kind,
                    local_files_only=offline,
                )
            )
        except EntryNotFoundError as error:
            if not isinstance(error, LocalEntryNotFoundError):
                return None
            if offline and name != FILES[-1]:
                return None
            raise _unfetched(error, wanted, offline=offline) from error
        except Exception as error:  # the hub's client and its transports raise many types
            raise _unfetched(error, wanted, offline=offline) from error

    for name in FILES:
        if (file := fetch(name)) is not None:
            return file, fetch(_CONFIG)
    raise LensFileError(f"[lens].tuned {source} has neither {' nor '.join(FILES)}")


def _unfetched(error: Exception, wanted: Wanted, *, offline: bool) -> LensFileError:
    said = explained(error, wanted, offline=offline)
    return LensFileError(said or f"{wanted.what} cannot be fetched: {in_plain_words(error)}")


def _compare(path: Path, model: Host, shown: str) -> None:
    """Refuse a configuration that says another size, or another kind of lens.

    Warns with a `QlensWarning` of another unembedding.
    """
    try:
        if path.stat().st_size > _LARGEST_CONFIG:
            raise LensFileError(f"{path} is larger than 1 MiB: not the configuration of a lens")
        said = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise LensFileError(f"{path} cannot be read: {in_plain_words(error)}") from error
    if not isinstance(said, dict):
        raise LensFileError(f"{path} is not the configuration of a tuned lens: not a JSON object")
    kind = said.get("lens_type", "linear_tuned_lens")
    if kind != "linear_tuned_lens":
        raise LensFileError(f"{shown} is a {kind!r:.60}: only a linear_tuned_lens can be used")
    for key, ours in (("d_model", model.d_model), ("num_hidden_layers", model.n_layers)):
        if key in said and said[key] != ours:
            raise _misfit(shown, f"{key} {said[key]!r:.60} in {_CONFIG}", f"{ours}", model)
    named = said.get("unembed_hash")
    if isinstance(named, str) and named != unembedding_hash(model):
        of = said.get("base_model_name_or_path", "unknown")
        warnings.warn(
            f"{shown} was made with another unembedding than that of {model.name} (its "
            f"{_CONFIG} names the model {of!r:.60}): check [lens].tuned",
            QlensWarning,
            stacklevel=2,
        )


def unembedding_hash(model: Host) -> str:
    """tuned-lens's name of an unembedding: the hash of its corners, as numpy prints them."""
    rows = model.W_U.T.float().cpu().numpy()
    return hashlib.sha256(np.array_str(rows, precision=1).encode()).hexdigest()


def _misfit(shown: str, found: str, expected: str, model: Host) -> LensFileError:
    return LensFileError(
        f"{shown} does not fit {model.name}: found {found}, expected {expected}: check [lens].tuned"
    )


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with open_tensors(path) as file:
            return {name: file.get(name) for name in file.keys()}  # noqa: SIM118
    except StoreError as error:
        raise LensFileError(f"[lens].tuned: {error}") from error


def _pickled(path: Path) -> Mapping[str, Tensor]:
    """What `torch.save` wrote, opened as tensors and nothing else."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about how it was saved, beside the one line of ours
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises whatever the unpickler meets
        if isinstance(error, LensError) or is_out_of_memory(error):
            raise
        raise LensFileError(f"{path} cannot be read: {in_plain_words(error)}") from error
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise LensFileError(f"{path} holds a {type(found).__name__}, not named tensors")
    for name, each in found.items():
        plain = isinstance(each, Tensor) and each.layout is torch.strided and each.is_cpu
        if not plain or not each.is_floating_point():
            raise LensFileError(f"{path} holds {name!r:.60}, which is no tensor of numbers")
    return found


def _by_layer(
    tensors: Mapping[str, Tensor], model: Host, shown: str
) -> tuple[list[Tensor], list[Tensor | None]]:
    """Weights and biases in the order of layers, after all checks of names and shapes."""
    found: dict[str, dict[int, Tensor]] = {"weight": {}, "bias": {}}
    for name, tensor in tensors.items():
        if name.startswith(_OF_MODEL):
            continue
        named = _NAME.fullmatch(name)
        if named is None:
            raise _misfit(shown, f"{name!r:.60}", "LAYER.weight and LAYER.bias only", model)
        layer, part = int(named[1]), named[2]
        if layer in found[part]:
            raise LensFileError(f"{shown} holds {layer}.{part} twice")
        found[part][layer] = tensor
    d, n = model.d_model, model.n_layers
    for part, shape in (("weight", (d, d)), ("bias", (d,))):
        for layer, tensor in sorted(found[part].items()):
            if tensor.shape != shape:
                has = "x".join(map(str, tensor.shape)) or "a number"
                wants = "x".join(map(str, shape))
                raise _misfit(shown, f"{layer}.{part} of {has}", wants, model)
    weights, biases = found["weight"], found["bias"]
    layers = max((*weights, *biases), default=-1) + 1
    if layers != n:
        raise _misfit(shown, f"translators of {layers} layers", f"{n}", model)
    missing = [f"{layer}.weight" for layer in range(n) if layer not in weights]
    missing += [f"{layer}.bias" for layer in range(n) if biases and layer not in biases]
    if missing:
        raise LensFileError(f"{shown} lacks {', '.join(missing[:3])}: get it again")
    return [weights[layer] for layer in range(n)], [biases.get(layer) for layer in range(n)]
