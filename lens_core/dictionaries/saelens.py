"""Dictionaries of SAELens: its releases, and folders in its disk format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lens_core.config import DictionaryConfig
from lens_core.dictionaries.layers import LAYER, at_layer, folders_matching, named_layer
from lens_core.dictionaries.releases import layers_in_release, release_info
from lens_core.dictionaries.saelens_cfg import CFG_FILE, read_cfg
from lens_core.errors import ConfigError, DictionaryError

if TYPE_CHECKING:
    import torch

    from lens_core.dictionaries.feature_dictionary import DictionaryHost, FeatureDictionary


def layers(config: DictionaryConfig, n_layers: int | None) -> tuple[int, ...] | None:
    """The layers of a folder pattern, or of a release that SAELens lists."""
    if config.path:
        pattern = str(config.path)
        return folders_matching(pattern) if LAYER in pattern else (_layer_of(Path(pattern)),)
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
        return None  # loading says more exactly what is wrong
    return found if type(found) is int and found > 0 else None


def load(
    config: DictionaryConfig,
    layer: int,
    model: DictionaryHost,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    offline: bool,
) -> FeatureDictionary:
    """The SAE or transcoder of `config` at `layer`, after every refusal that applies."""
    # SAELens takes seconds to import.
    from lens_core.dictionaries.saelens_loading import load_sae

    return load_sae(config, layer, model, dtype=dtype, device=device, offline=offline)


def _layer_of(folder: Path) -> int:
    cfg = read_cfg(folder)
    metadata = cfg.get("metadata")
    hook = (metadata if isinstance(metadata, dict) else {}).get("hook_name") or cfg.get("hook_name")
    layers = named_layer(str(hook))
    if not layers:
        raise DictionaryError(f"{folder / CFG_FILE} does not name a layer in hook_name ({hook})")
    return layers[0]
