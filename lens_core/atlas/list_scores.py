"""The scores of the lists of a layer's atlas, read once: they tell a search what cannot be best."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from lens_core.atlas.atlas import atlas_fingerprint
from lens_core.atlas.files import find_layer
from lens_core.lens import QueryLens
from lens_core.lenses import Lens
from lens_core.terms import Side


class AtlasLists:
    """The scores of the lists in a cache's atlases of one lens's dictionaries.

    Those of one side and lens are kept, `4 k` bytes a feature, until others are asked for.
    """

    def __init__(self, cache: Path, lens: QueryLens) -> None:
        self._cache = cache
        self._lens = lens
        self._kept: dict[tuple[str, Side, str], Tensor] = {}

    def __call__(self, layer: int, side: Side, lens: Lens) -> Float[Tensor, "n_features k"] | None:
        """A row for each feature, best first, NaN for a vector of length zero.

        `None` if the layer has no whole atlas.
        """
        dictionary = self._lens.dictionary(layer)
        if not self._lens.carrier.has_operators(dictionary):
            return None
        name = atlas_fingerprint(self._lens, layer)
        if (name, side, lens.name) not in self._kept:
            found = find_layer(self._cache, name)
            if found is None:
                return None
            column = f"{side}_{lens.column}_scores"
            lists = found.scan().select(column).collect()[column].list.to_array(self._lens.k)
            if any(kept[1:] != (side, lens.name) for kept in self._kept):
                self._kept.clear()
            scores = torch.tensor(lists.to_numpy(), dtype=dictionary.keys.dtype)
            self._kept[name, side, lens.name] = scores.to(dictionary.keys.device)
        return self._kept[name, side, lens.name]
