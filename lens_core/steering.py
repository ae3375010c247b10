"""One feature set to a strength on texts, and what the model says next.

    x' = x + s (c - a_i(x)) v_i    at every position of the text, at what the dictionary stands for

The dictionary's error stays in the stream, so that nothing but the feature changes
(docs/method.md, section 5). The model is run up to the dictionary once for all features; every
strength is one pass from there on. Texts are read at their last token only, and filled up behind
it (`lens_core.reference`), which no earlier position depends on.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from lens_core.dictionaries.feature_dictionary import FeatureDictionary
from lens_core.memory import Parts
from lens_core.model import ResidualModel
from lens_core.reference import ReferenceSample
from lens_core.splicing import Spliced, end, spliced
from lens_core.tally import samples_per_pass


class Steering:
    """The next-token logits of `model` behind texts, with features of `dictionary` set."""

    def __init__(
        self, model: ResidualModel, dictionary: FeatureDictionary, texts: ReferenceSample
    ) -> None:
        """`texts` are short texts (`ReferenceSample.ends`)."""
        assert texts.ends is not None
        self.texts = texts
        self._model, self._dictionary = model, dictionary
        self._ends = texts.ends.to(model.device)
        self._parts = Parts(samples_per_pass(model, texts), model.device)
        self._real, self._fired = spliced(model, dictionary, texts.tokens, keep_error=True)
        self.clean = self._logits(self._real)
        """Logits of the unchanged model."""

    @property
    def typical(self) -> float:
        """The strength whose write is as long as what the dictionary stands for, over `|v|`."""
        length = self._real.reconstruction.norm(dim=-1).mean()
        scale = 1 if self._real.scale is None else self._real.scale.mean()
        return float(length / scale)

    def logits(self, feature: int, strength: float) -> Float[Tensor, "texts d_vocab"]:
        """Logits with the feature's activation set to `strength` at every position."""
        shift = strength - self._fired.of(feature)
        change = shift[..., None] * self._dictionary.values[feature]
        return self._logits(self._real.moved(change))

    @torch.no_grad()
    def _logits(self, of: Spliced) -> Float[Tensor, "texts d_vocab"]:
        def some(rows: slice) -> Tensor:
            stream = end(self._model, self._dictionary, of.part(rows))
            at = torch.arange(len(stream), device=stream.device)
            return self._model.unembed(self._model.final_norm(stream[at, self._ends[rows]]))

        return torch.cat(self._parts.each(self.texts.samples, some))
