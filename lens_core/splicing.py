"""A dictionary in place of what it reconstructs, and one of its features set to a value.

    h_write = [h_mid +] write_norm(r),     r = s (a values + b_dec) [+ mean]        spliced in
    r' = r + s (c - a_i) v_i                                                        a_i set to c

(docs/method.md, sections 5 and 5a.) The stream goes on from the reconstruction, without its error,
as SAELens runs a model with a dictionary in it. An autoencoder stands for the stream itself, and
gives it back in the stream's own units where it normalises its input (`s` and the mean; SAELens
does neither for transcoders); transcoders and neurons stand for the MLP, behind which the stream
of the middle of the layer is added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from lens_core.dictionaries.feature_dictionary import (
    FeatureDictionary,
    read_function,
    write_function,
)
from lens_core.errors import DictionaryError
from lens_core.model import ResidualModel, Stream
from lens_core.tally import BLOCK_BYTES


def obstacle(dictionary: FeatureDictionary) -> str:
    """Why a dictionary has no reconstruction here; empty if it has one."""
    if dictionary.provenance.get("skip"):
        return "the linear bypass of a skip transcoder is a part of it that qlens does not keep"
    return ""


@dataclass(frozen=True, eq=False)
class Spliced:
    """Samples with a dictionary spliced in.

    `reconstruction` is `r`, `scale` is `s` (`None`: 1), `base` the stream that it is added to
    (`None`: it replaces the stream).
    """

    reconstruction: Stream
    scale: Float[Tensor, "samples pos one"] | None
    base: Stream | None

    def __getitem__(self, sample: int) -> Spliced:
        """One sample."""
        return self.part(slice(sample, sample + 1))

    def part(self, samples: slice) -> Spliced:
        """Some samples."""
        return Spliced(
            self.reconstruction[samples],
            None if self.scale is None else self.scale[samples],
            None if self.base is None else self.base[samples],
        )

    @classmethod
    def together(cls, some: Sequence[Spliced]) -> Spliced:
        """Samples of the same dictionary, one after another."""
        scales = [each.scale for each in some if each.scale is not None]
        bases = [each.base for each in some if each.base is not None]
        return cls(
            torch.cat([each.reconstruction for each in some]),
            torch.cat(scales) if scales else None,
            torch.cat(bases) if bases else None,
        )

    def moved(self, change: Stream) -> Spliced:
        """With a change in the units of the dictionary's values, such as `(c - a_i) v_i`."""
        scaled = change if self.scale is None else change * self.scale
        return replace(self, reconstruction=self.reconstruction + scaled)


@dataclass(frozen=True, eq=False)
class Fired:
    """The activations of some samples that are not zero: token, feature, value.

    A token's number is its sample times the length plus its position.
    """

    shape: tuple[int, int]
    tokens: Int64[Tensor, " fired"]
    features: Int64[Tensor, " fired"]
    values: Float[Tensor, " fired"]

    def of(self, feature: int) -> Float[Tensor, "samples pos"]:
        """One feature's activation at every token."""
        found = self.values.new_zeros(self.shape)
        here = self.features == feature
        found.view(-1)[self.tokens[here]] = self.values[here]
        return found


@torch.no_grad()
def spliced(
    model: ResidualModel,
    dictionary: FeatureDictionary,
    tokens: Int64[Tensor, "samples pos"],
    *,
    keep_error: bool = False,
) -> tuple[Spliced, Fired]:
    """Run `tokens` up to the dictionary, and reconstruct; also what fires.

    `keep_error`: what it stands for itself in place of its reconstruction, so that only features
    that are set change the model.

    Raises:
        DictionaryError: activations are not finite.
    """
    stream = model.sites(tokens.to(model.device), last=dictionary.read_site)[-1]
    return spliced_into(model, dictionary, stream, keep_error=keep_error)


@torch.no_grad()
def spliced_into(
    model: ResidualModel, dictionary: FeatureDictionary, stream: Stream, *, keep_error: bool = False
) -> tuple[Spliced, Fired]:
    """The same, given the stream at the read site, of any positions.

    Raises:
        DictionaryError: activations are not finite.
    """
    read = read_function(dictionary, model)
    rows, fired = [], []
    at_once = max(1, BLOCK_BYTES // (4 * dictionary.n_features))
    start = 0
    for block in torch.split(stream.flatten(0, 1), at_once):
        activations = dictionary.encode(read(block).to(dictionary.keys))
        if not bool(activations.sum().isfinite()):
            raise DictionaryError(
                f"{dictionary.name} gives activations that are not finite on this text: "
                "is it a dictionary of this model and layer?"
            )
        made = activations @ dictionary.values
        rows.append(made if dictionary.decoder_bias is None else made + dictionary.decoder_bias)
        token, feature = activations.nonzero(as_tuple=True)
        fired.append((token + start, feature, activations[token, feature]))
        start += len(block)
    reconstruction = torch.cat(rows).view(stream.shape)
    base, scale = (stream, None) if dictionary.kind != "sae" else (None, _scale(dictionary, stream))
    found = Fired((stream.shape[0], stream.shape[1]), *map(torch.cat, zip(*fired, strict=True)))
    if keep_error:
        return Spliced(_stood_for(model, dictionary, stream), scale, base), found
    if scale is not None:
        reconstruction = reconstruction * scale
        if dictionary.read_norm == "layer_norm":
            reconstruction = reconstruction + stream.mean(-1, keepdim=True)
    return Spliced(reconstruction, scale, base), found


def _stood_for(model: ResidualModel, dictionary: FeatureDictionary, stream: Stream) -> Stream:
    """What it stands for: the stream, or the MLP's output, behind a post-norm or not."""
    if dictionary.kind == "sae":
        return stream
    if dictionary.write_norm == "none":
        return model.block(dictionary.write_site - 1, stream)
    return model.mlp_output(dictionary.layer, stream)


def _scale(dictionary: FeatureDictionary, stream: Stream) -> Tensor | None:
    """What an autoencoder divided its input by."""
    scale: Tensor | None = None
    if dictionary.read_norm == "layer_norm":
        scale = stream.std(-1, keepdim=True)  # SAELens adds its epsilon only when it divides
    if dictionary.read_norm == "rescale":
        scale = stream.norm(dim=-1, keepdim=True) / stream.shape[-1] ** 0.5
    return scale


@torch.no_grad()
def normed_end(model: ResidualModel, dictionary: FeatureDictionary, of: Spliced) -> Stream:
    """The stream behind the final norm."""
    return model.final_norm(end(model, dictionary, of))


@torch.no_grad()
def written(model: ResidualModel, dictionary: FeatureDictionary, of: Spliced) -> Stream:
    """The stream at the write site."""
    write = write_function(dictionary, model)
    h = of.reconstruction if write is None else write(of.reconstruction)
    return h if of.base is None else of.base + h


@torch.no_grad()
def end(model: ResidualModel, dictionary: FeatureDictionary, of: Spliced) -> Stream:
    """The final stream."""
    h = written(model, dictionary, of)
    for k in range(dictionary.write_site, model.n_blocks):
        h = h + model.block(k, h)
    return h
