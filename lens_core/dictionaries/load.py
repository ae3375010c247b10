"""Loading a dictionary from its configuration, for every format."""

from __future__ import annotations

import torch

from lens_core.config import DictionaryConfig
from lens_core.dictionaries.feature_dictionary import DictionaryHost, FeatureDictionary
from lens_core.dictionaries.formats import format_of
from lens_core.errors import DictionaryError


def load_dictionary(
    config: DictionaryConfig,
    layer: int,
    model: DictionaryHost,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    offline: bool = False,
) -> FeatureDictionary:
    """The dictionary of `config` at `layer`.

    Raises:
        DictionaryError: it cannot be read or fetched, it does not read and write the residual
        stream, or it is proven to belong to another model. Nothing else is ever loaded
        instead.
    """
    if not 0 <= layer < model.n_layers:
        raise DictionaryError(
            f"there is no layer {layer}: {model.name} has layers 0 to {model.n_layers - 1}"
        )
    return format_of(config).load(config, layer, model, dtype=dtype, device=device, offline=offline)
