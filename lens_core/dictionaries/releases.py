"""Which layers a dictionary exists for, answered without weights, network or torch.

Three places know: SAELens's list of releases (a YAML file inside its package, of
which only the block of one release is parsed: 2 ms instead of 0.8 s), the folders
on disk that match a path with `{layer}` in it, and, for MLP neurons, the model.
Everything that loads or draws a list of layers asks here, so that a layer which
does not exist is refused before anything is fetched.
"""

from __future__ import annotations

import difflib
import glob
import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import yaml  # type: ignore[import-untyped]

from lens_core.config import DictionaryConfig
from lens_core.errors import ConfigError, DictionaryError, UsageError

LAYER = "{layer}"
CFG_FILE = "cfg.json"
WEIGHTS_FILE = "sae_weights.safetensors"


@dataclass(frozen=True)
class Release:
    """One entry of SAELens's list: `folders` maps an id to its folder in `repository`.

    `format` names SAELens's reader; `None` means its own disk format.
    """

    name: str
    repository: str
    model: str
    format: str | None
    folders: Mapping[str, str]


def available_layers(config: DictionaryConfig, n_layers: int) -> tuple[int, ...]:
    """The layers that `config` asks for, in ascending order; all of them exist.

    Raises:
        ConfigError: the configuration names a release, an id or a layer that does not exist.
        DictionaryError: the dictionary has more layers than the model (`n_layers`), or there
            is nothing at `config.path`.
    """
    neurons = config.kind == "neurons"
    chosen = _chosen(config, tuple(range(n_layers)) if neurons else _known_layers(config))
    beyond = [layer for layer in chosen if layer >= n_layers]
    if beyond:
        raise DictionaryError(
            f"{source_pattern(config)} has layer {beyond[0]}, but the model has layers 0 to "
            f"{n_layers - 1}: it belongs to another model; check {setting(config)}"
        )
    return chosen


def layers_without_model(config: DictionaryConfig) -> tuple[int, ...] | None:
    """`available_layers`, as far as they are known before the model; `None`: it has them.

    Raises:
        ConfigError, DictionaryError: as `available_layers`.
    """
    if config.kind == "neurons":
        return None if config.layers == "all" else tuple(sorted(config.layers))
    return _chosen(config, _known_layers(config))


def features_without_loading(config: DictionaryConfig, layer: int) -> int | None:
    """How many features a folder's `cfg.json` says it has; `None`: only loading tells."""
    if config.path is None:
        return None
    try:
        found = read_cfg(Path(at_layer(str(config.path), layer))).get("d_sae")
    except DictionaryError:
        return None  # loading says more exactly what is wrong
    return found if type(found) is int and found > 0 else None


def demand_layer(layer: int, layers: Collection[int]) -> None:
    """Refuse a layer that is not one of the dictionary's."""
    if layer not in layers:
        has = ", ".join(map(str, layers))
        raise UsageError(f"there is no dictionary for layer {layer}: layers are {has}")


def demand_feature(layer: int, feature: int, n_features: int) -> None:
    """Refuse a feature that the layer does not have."""
    if not 0 <= feature < n_features:
        raise UsageError(
            f"feature {feature} is out of range: layer {layer} has features 0 to {n_features - 1}"
        )


def release_info(name: str) -> Release | None:
    """The entry of SAELens's list; `None` for a hub repository that it does not list.

    Raises:
        ConfigError: `name` is neither listed nor an `owner/repository`.
    """
    text = _release_list()
    block = re.search(rf"^{re.escape(name)}:\s*\n((?:[ \t-].*\n|\s*\n)*)", text, re.MULTILINE)
    if block is None:
        if "/" in name:
            return None
        names = re.findall(r"^(\S.*?):\s*$", text, re.MULTILINE)
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {near[0]}?" if near else ": see SAELens's list of releases"
        raise ConfigError(f"[dictionary].release {name} is not a SAELens release{hint}")
    entry = yaml.load(block.group(1), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return Release(
        name=name,
        repository=entry["repo_id"],
        model=entry["model"],
        format=entry.get("conversion_func"),
        folders={str(sae["id"]): str(sae["path"]) for sae in entry["saes"]},
    )


def at_layer(pattern: str, layer: int) -> str:
    """`pattern` with `{layer}` filled in."""
    return pattern.replace(LAYER, str(layer))


def source_pattern(config: DictionaryConfig) -> str:
    """The dictionary as the configuration names it, for messages."""
    if config.kind == "neurons":
        return "the MLP"
    return str(config.path) if config.path else f"{config.release}/{config.id}"


def setting(config: DictionaryConfig) -> str:
    """The key of the configuration that says where the dictionary comes from."""
    return "[dictionary].path" if config.path else "[dictionary].release"


def _chosen(config: DictionaryConfig, known: tuple[int, ...] | None) -> tuple[int, ...]:
    if config.layers == "all":
        if known is None:
            raise ConfigError(
                f"{config.release} is not in SAELens's list, so its layers cannot be listed: "
                "give them in [dictionary].layers"
            )
        return known
    chosen = tuple(sorted(config.layers))
    missing = [layer for layer in chosen if known is not None and layer not in known]
    if missing:
        raise ConfigError(
            f"[dictionary].layers names {_ranges(missing)}, "
            f"but {source_pattern(config)} exists for layers {_ranges(known or ())}"
        )
    return chosen


def _known_layers(config: DictionaryConfig) -> tuple[int, ...] | None:
    if config.path:
        return _layers_on_disk(str(config.path))
    assert config.release is not None, "a configuration without path has both"
    assert config.id is not None, "a configuration without path has both"
    release = release_info(config.release)
    if release is None:
        return None
    return _layers_in_release(release, config.id)


def _layers_in_release(release: Release, sae_id: str) -> tuple[int, ...]:
    if LAYER in sae_id:
        layers = _matching(sae_id, release.folders)
    elif sae_id in release.folders:
        layers = _named_layer(sae_id)
    else:
        layers = ()
    if not layers:
        shown = ", ".join(list(release.folders)[:3])
        raise ConfigError(
            f"[dictionary].id {sae_id} is not in release {release.name}, whose "
            f"{len(release.folders)} ids look like {shown}"
        )
    return layers


def _layers_on_disk(pattern: str) -> tuple[int, ...]:
    if LAYER not in pattern:
        return (_layer_of_folder(Path(pattern)),)
    wild = "*".join(glob.escape(part) for part in pattern.split(LAYER))
    layers = _matching(pattern, (path for path in glob.glob(wild) if Path(path).is_dir()))
    if not layers:
        raise DictionaryError(f"no folder matches [dictionary].path {pattern}")
    return layers


def _layer_of_folder(folder: Path) -> int:
    cfg = read_cfg(folder)
    metadata = cfg.get("metadata")
    hook = (metadata if isinstance(metadata, dict) else {}).get("hook_name") or cfg.get("hook_name")
    layers = _named_layer(str(hook))
    if not layers:
        raise DictionaryError(f"{folder / CFG_FILE} does not name a layer in hook_name ({hook})")
    return layers[0]


def read_cfg(folder: Path) -> dict[str, object]:
    """The `cfg.json` of a dictionary in SAELens's disk format.

    Raises:
        DictionaryError: there is no such folder or file, or it holds no JSON object.
    """
    if not folder.is_dir():
        raise DictionaryError(f"[dictionary].path {folder} is not a folder")
    file = folder / CFG_FILE
    try:
        cfg = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DictionaryError(
            f"{folder} holds no {CFG_FILE}: it is not in SAELens's disk format"
        ) from None
    except OSError as error:
        raise DictionaryError(f"cannot read {file}: {error.strerror}") from error
    except ValueError as error:
        raise DictionaryError(f"{file} is not JSON: {error}") from error
    if not isinstance(cfg, dict):
        raise DictionaryError(f"{file} does not hold a JSON object")
    return cfg


def _matching(pattern: str, names: Iterable[str]) -> tuple[int, ...]:
    """The layers for which `names` holds `pattern`; every `{layer}` is the same number."""
    head, *rest = (re.escape(part) for part in pattern.split(LAYER))
    regex = re.compile(head + r"(0|[1-9]\d*)" + r"\1".join(rest))
    found = (regex.fullmatch(name) for name in names)
    return tuple(sorted({int(match.group(1)) for match in found if match}))


def _named_layer(name: str) -> tuple[int, ...]:
    """The layer in an id or hook name without `{layer}`, such as `blocks.8.hook_resid_pre`."""
    match = re.search(r"(?:blocks\.|layers?[._]?|^l)(\d+)", name)
    return (int(match.group(1)),) if match else ()


def _ranges(layers: Iterable[int]) -> str:
    """`0-11, 20`: ascending numbers, runs written as ranges."""
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ", ".join(f"{a}-{b}" if a < b else str(a) for a, b in runs)


@cache
def _release_list() -> str:
    # Not through `import sae_lens`, which imports torch and takes seconds.
    spec = find_spec("sae_lens")
    assert spec is not None
    assert spec.submodule_search_locations
    file = Path(spec.submodule_search_locations[0]) / "pretrained_saes.yaml"
    return file.read_text(encoding="utf-8")
