"""Dictionaries of SAELens: its releases, and folders in its disk format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lens_core.config import DictionaryConfig
from lens_core.dictionaries.hooks import layer_and_point, refuse_hooks
from lens_core.dictionaries.layers import LAYER, at_layer, folders_matching
from lens_core.dictionaries.releases import layers_in_release, release_info
from lens_core.dictionaries.saelens_cfg import SaeCfg, read_cfg
from lens_core.dictionaries.saelens_checks import (
    refuse_architecture,
    refuse_layer,
    refuse_normalization,
    refuse_numbers,
    refuse_weights,
    refuse_widths,
)
from lens_core.errors import ConfigError, DictionaryError

if TYPE_CHECKING:
    import torch

    from lens_core.dictionaries.feature_dictionary import DictionaryHost, FeatureDictionary


def layers(config: DictionaryConfig, n_layers: int | None) -> tuple[int, ...] | None:
    """The layers of a folder pattern, or of a release that SAELens lists."""
    if config.path:
        pattern = str(config.path)
        if LAYER in pattern:
            return folders_matching(pattern)
        cfg = SaeCfg.of(read_cfg(Path(pattern)))
        return (layer_and_point(cfg.hook(config.kind), pattern)[0],)
    assert config.release is not None, "a configuration without path has both"
    assert config.id is not None, "a configuration without path has both"
    release = release_info(config.release)
    if release is not None:
        return layers_in_release(release, config.id)
    if config.layers == "all":
        raise ConfigError(
            f"{config.release} is not in SAELens's list, so its layers cannot be listed: "
            "give them in [dictionary].layers"
        )
    return None


def n_features(config: DictionaryConfig, layer: int) -> int | None:
    """What a folder's `cfg.json` says."""
    if config.path is None:
        return None
    try:
        found = read_cfg(Path(at_layer(str(config.path), layer))).get("d_sae")
    except DictionaryError:
        return None  # loading reports this more exactly
    return found if type(found) is int and found > 0 else None


def folders(config: DictionaryConfig) -> tuple[Path, ...]:
    """The folders of a path, of all layers."""
    if config.path is None:
        return ()
    pattern = str(config.path)
    found = folders_matching(pattern) if LAYER in pattern else (0,)
    return tuple(Path(at_layer(pattern, layer)) for layer in found)


def repository(config: DictionaryConfig) -> str | None:
    """The repository of a release."""
    if config.release is None:
        return None
    release = release_info(config.release)
    return config.release if release is None else release.repository


def check(config: DictionaryConfig, layer: int, model: str, d_model: int) -> None:
    """Refuse a folder by its configuration and its weights."""
    if config.path is None:
        return
    folder = at_layer(str(config.path), layer)
    cfg = SaeCfg.of(read_cfg(Path(folder)))
    refuse_architecture(cfg, folder, config.kind)
    refuse_hooks(cfg, config.kind, folder)
    refuse_widths(cfg, d_model, folder, model, "[dictionary].path")
    reads = cfg.hook(config.kind)
    refuse_layer(layer_and_point(reads, folder)[0], layer, reads, folder)
    refuse_normalization(cfg.normalization, folder, has_factor=False)
    refuse_weights(Path(folder))
    refuse_numbers(Path(folder))


def load(
    config: DictionaryConfig,
    layer: int,
    model: DictionaryHost,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    offline: bool,
) -> FeatureDictionary:
    """The SAE or transcoder of `config` at `layer`, after all checks."""
    # SAELens takes seconds to import.
    from lens_core.dictionaries.saelens_loading import load_sae

    return load_sae(config, layer, model, dtype=dtype, device=device, offline=offline)
