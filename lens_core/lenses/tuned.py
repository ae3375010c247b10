"""Tuned Lens on a feature's value: the translator of the layer that reads it, then the final norm.

    score = unembed( v + A_l v )        v is written at the stream that layer `l` reads

A translator belongs to the *input* of its layer: tuned-lens trains translator `l` on the hidden
states `l` of the model, of which 0 is the embedding. So a feature on `resid_post` of layer `l - 1`
has translator `l`; behind the last layer the final norm reads the stream itself, and nothing is
translated; in the middle of a layer there is no translator.

A translator is affine in the *stream* (`h + A h + b`). A feature is a change of the stream, and of
a change the bias is no part: `(h + v) - h` goes to `v + A v`. The published code of Query Lens
differs in both: it takes the translator with the number of the feature's own layer, adds the bias
to every feature alike, and translates nothing at the last layer. `published` does the same, to
reproduce their tables.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lens_core.lenses.lens import Lens
from lens_core.terms import Settings, Side

if TYPE_CHECKING:
    from lens_core.dictionaries.feature_dictionary import FeatureDictionary
    from lens_core.direct import Transported
    from lens_core.feature_map import FeatureMap
    from lens_core.instruments import Instruments


@dataclass(frozen=True)
class TunedLens(Lens):
    """Tuned Lens; `published`: with the translator and the bias of the authors' code."""

    published: bool = False

    def missing(
        self, tools: Instruments, side: Side, dictionary: FeatureDictionary | None = None
    ) -> str:
        if found := super().missing(tools, side, dictionary):
            return found
        if tools.config.tuned is None:
            return f"{self.title} needs its parameters: set [lens].tuned to a file or a folder"
        if dictionary is not None and not self.published and dictionary.write_site % 2:
            return f"{self.title} has no translator for the middle of a layer"
        return ""

    def carry(
        self,
        tools: Instruments,
        side: Side,
        dictionary: FeatureDictionary,
        feature: int,
        asked: Settings,
    ) -> Transported:
        plain = tools.carrier.carry(side, dictionary, feature, Settings("identity"))
        carried = self.map(tools, side, dictionary)(plain.direct)
        return replace(plain, vector=carried, steps=None, relative_variance=None)

    def carries_all(self, tools: Instruments, side: Side, dictionary: FeatureDictionary) -> bool:
        # Reads the file, so that one that does not fit is told before a long run.
        return bool(tools.translators.weights)

    def map(self, tools: Instruments, side: Side, dictionary: FeatureDictionary) -> FeatureMap:
        """`v -> v + A v`, of all features of a dictionary.

        Raises:
            LensFileError: the parameters cannot be read, or do not belong to the model.
        """
        return tools.translators.map(self._layer(tools, dictionary), with_bias=self.published)

    def _layer(self, tools: Instruments, dictionary: FeatureDictionary) -> int | None:
        """Whose translator is used; `None` for none, where the final norm reads the stream."""
        last = tools.model.n_layers
        if self.published:
            return None if dictionary.layer == last - 1 else dictionary.layer
        layer = dictionary.write_site // 2
        return None if layer == last else layer
