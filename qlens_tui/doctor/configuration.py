"""The checks of `qlens doctor CONFIG`: whether the configuration can be opened.

Only files on this machine are checked; what a run would fetch is named, not fetched. A
reference from a text is drawn as in a run.
"""

from __future__ import annotations

import glob
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lens_core.errors import LensError, ModelError, QlensWarning, StoreError
from qlens_tui.doctor.explanations import examine_explanations
from qlens_tui.doctor.machine import Finding
from qlens_tui.doctor.model import Found, Shape, absent, broken, examine_model
from qlens_tui.formats import counted, in_bytes, reference_size

if TYPE_CHECKING:
    from lens_core.config import Config, DictionaryConfig


def examine_config(name: str) -> Iterator[Finding]:
    """Findings on whether the configuration `name` can be opened, part by part."""
    from lens_core.config import load_config

    try:
        config = load_config(name)
    except LensError as error:
        yield Finding("config", "broken", str(error), "fix the file")
        return
    yield Finding("config", "ok", str(config.path))
    yield _device(config)
    model = examine_model(config)
    shape = model.shape
    yield model.finding
    if shape is not None:
        yield _dictionary(config.dictionary, config.model.name, shape)
    yield _reference(config, model)
    yield from examine_explanations(config, shape)
    if shape is not None:
        yield _build(config, shape)


def _device(config: Config) -> Finding:
    from lens_core.loading import choose_device

    try:
        device = choose_device(config.compute.device)
    except LensError as error:
        return Finding("device", "broken", str(error), 'set [compute].device to "auto"')
    return Finding("device", "ok", f"{device}, {config.compute.dtype}")


def _dictionary(config: DictionaryConfig, model: str, shape: Shape) -> Finding:
    from lens_core.dictionaries.formats import available_layers, check_files
    from lens_core.dictionaries.layers import at_layer
    from lens_core.dictionaries.releases import release_info

    try:
        layers = available_layers(config, shape.n_layers)
        entry = release_info(config.release) if config.release else None
    except LensError as error:
        return broken("dictionary", error, "check [dictionary]")
    if config.release is None:
        try:
            for layer in layers:
                check_files(config, layer, model, shape.d_model)
        except LensError as error:
            return broken("dictionary", error, "check [dictionary].path")
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
        return absent("dictionary", which, f"https://huggingface.co/{repository}")
    return Finding("dictionary", "ok", what)


def _is_cached(repository: str, folder: str) -> bool:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    name = repo_folder_name(repo_id=repository, repo_type="model")
    pattern = Path(glob.escape(constants.HF_HUB_CACHE), glob.escape(name), "snapshots", "*")
    return bool(glob.glob(str(pattern / glob.escape(folder))))


def _reference(config: Config, model: Found) -> Finding:
    from lens_core.reference import check_file

    source = config.reference.parsed_source
    asked = config.reference
    size = reference_size(asked.samples, asked.length, are_texts=asked.kind != "chunks")
    if source.kind == "hub":
        import datasets

        cached = Path(datasets.config.HF_DATASETS_CACHE, source.location.replace("/", "___"))
        if cached.is_dir():
            return Finding("reference", "ok", f"{source}, {size}")
        where = f"https://huggingface.co/datasets/{source.location}"
        return absent("reference", f"data set {source.location}", where)
    try:
        check_file(config.reference)
        said = _sampled(config, model)
    except ModelError as error:
        return broken("reference", error, "check [model].name")
    except LensError as error:
        return broken("reference", error, "check [reference]")
    what = "bundled text" if source.kind == "bundled" else str(source)
    if said:
        return Finding("reference", "note", said, "use the tokenizer and weights of one model")
    return Finding("reference", "ok", what if source.kind == "tokens" else f"{what}, {size}")


def _sampled(config: Config, model: Found) -> str:
    """Draw the reference as a run does, if the tokenizer is here; returns its warnings."""
    from lens_core.pretrained import open_tokenizer
    from lens_core.reference import load_reference

    if model.shape is None or model.path is None or model.path.is_file():
        return ""
    tokenizer = open_tokenizer(model.path, str(model.path))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", QlensWarning)
        load_reference(config.reference, tokenizer, d_vocab=model.shape.d_vocab, offline=True)
    told = [str(each.message) for each in caught if issubclass(each.category, QlensWarning)]
    return "; ".join(told)


def _build(config: Config, shape: Shape) -> Finding:
    from lens_core.directories import CACHE, cache_dir
    from lens_core.operators.passes import FAMILIES
    from lens_core.operators.plan import BuildPlan

    reference = config.reference
    plan = BuildPlan(
        fingerprint="", inputs={}, d_model=shape.d_model, n_blocks=2 * shape.n_layers,
        dtype=config.compute.dtype, samples=reference.samples, length=reference.length,
        skip_first=reference.skip_first, skip_last=reference.skip_last, micro_batch=1,
        rows_per_unit=shape.d_model, device="", is_last_only=reference.kind != "chunks",
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
        fix = f"free some space, or set {CACHE} to a larger disk"
        return Finding("build", "note", f"{found}: only {in_bytes(free)} free", fix, facts)
    return Finding("build", "ok", found, facts=facts)
