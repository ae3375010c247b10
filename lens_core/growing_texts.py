"""Texts that grow token by token, with one feature of a dictionary set to a strength.

    x' = x + s (c - a_i(x)) v_i    at every position, old and new, at what the dictionary stands for

(docs/method.md, section 5a; the error stays in the stream, as in `lens_core.steering`.) Earlier
positions do not depend on later ones, so that what attention reads of them is kept: a new token
costs each MLP, the dictionary and the unembedding once per text, and each attention block once
over the whole text. That needs nothing of an architecture but its blocks; a cache of keys and
values would save the attention blocks too, whose weights are a quarter of a layer or less.

Kept are the streams in front of all attention blocks: half as many as there are blocks, for every
position of the texts.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from lens_core.dictionaries.feature_dictionary import FeatureDictionary
from lens_core.model import ResidualModel, Stream
from lens_core.splicing import spliced_into, written


class GrowingTexts:
    """Some texts as far as they have been run, none of them longer than `longest`."""

    def __init__(
        self,
        model: ResidualModel,
        dictionary: FeatureDictionary,
        texts: int,
        longest: int,
        feature: int | None = None,
        strength: float = 0.0,
    ) -> None:
        """`feature` of `None`: the unchanged model."""
        self._model, self._dictionary = model, dictionary
        self._feature, self._strength = feature, strength
        self._rows = torch.arange(texts, device=model.device)[:, None]
        shape = texts, longest, model.d_model
        self._read = {
            k: torch.zeros(shape, dtype=model.dtype, device=model.device)
            for k in range(0, model.n_blocks, 2)
        }

    @torch.no_grad()
    def read(self, tokens: Int64[Tensor, "texts length"], at: Int64[Tensor, "texts new"]) -> Stream:
        """The normalised final stream at the positions `at` of each text.

        Earlier positions must have been read before, with the same tokens.
        """
        model, dictionary = self._model, self._dictionary
        upto = int(at.max()) + 1
        h = model.embed(tokens[:, :upto])[self._rows, at]
        through = model.n_blocks if self._feature is None else dictionary.read_site
        for k in range(through):
            h = h + self._added(k, h, at, upto)
        if self._feature is not None:
            real, fired = spliced_into(model, dictionary, h, keep_error=True)
            shift = self._strength - fired.of(self._feature)
            change = shift[..., None] * dictionary.values[self._feature]
            h = written(model, dictionary, real.moved(change))
            for k in range(dictionary.write_site, model.n_blocks):
                h = h + self._added(k, h, at, upto)
        return model.final_norm(h)

    def _added(self, k: int, h: Stream, at: Int64[Tensor, "texts new"], upto: int) -> Stream:
        """What block `k` adds at the new positions."""
        if k % 2:
            return self._model.block(k, h)
        self._read[k][self._rows, at] = h
        added: Float[Tensor, "texts upto d_model"]
        added = self._model.block(k, self._read[k][:, :upto])
        return added[self._rows, at]
