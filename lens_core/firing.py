"""Which features fire on a given text, token by token.

    a[p] = encode(read_norm(h[p]))          h: the stream at the dictionary's read site

The same activations as `tally` reads over the reference, but for one text, to test an
explanation. The text is tokenised like a document of the reference (`reference`): without
special tokens, and after a beginning-of-sequence token if the configuration says so.

Costs one forward pass up to the read site and one of the encoder. Of the
`[pos, n_features]` activations at most `BLOCK_BYTES` exist at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lens_core.dictionaries.feature_dictionary import FeatureDictionary, read_function
from lens_core.errors import DictionaryError, UsageError
from lens_core.memory import free_bytes, is_out_of_memory, release
from lens_core.model import ResidualModel
from lens_core.reference import beginning
from lens_core.tally import BLOCK_BYTES

# The model keeps masks and rotary tables for every length it was run on, so use few lengths.
_SHORTEST = 16
# Memory of a pass: copies of a layer's attention scores, and streams in addition to the sites.
_SCORES, _WORKING_STREAMS = 3, 24


@dataclass(frozen=True, eq=False)
class Firing:
    """The strongest features of every token, and one feature's activation at each.

    Features are ordered by activation and, where equal, by number; a token on which fewer
    than `top` fire has -1 and 0 for the rest. `activations` is `None` unless a feature was
    asked for.
    """

    top_features: Int64[Tensor, "pos top"]
    top_activations: Float32[Tensor, "pos top"]
    activations: Float32[Tensor, " pos"] | None


def prompt_tokens(
    text: str, tokenizer: PreTrainedTokenizerBase | None, *, prepend_bos: bool
) -> Int64[Tensor, " pos"]:
    """The tokens of `text`, tokenised like a document of the reference.

    Raises:
        UsageError: there are none, or the model has no tokenizer.
    """
    if tokenizer is None:
        raise UsageError("the model has no tokenizer to read a text with")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"character {error.start + 1} of the text is half of one (a lone surrogate), which "
            "no tokenizer reads: remove it"
        ) from error
    ids = list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    if not ids:
        raise UsageError("the text has no tokens: write something")
    if prepend_bos:
        ids = beginning(tokenizer) + ids
    return torch.tensor(ids, dtype=torch.int64)


@torch.no_grad()
def firing(
    model: ResidualModel,
    dictionary: FeatureDictionary,
    tokens: Int64[Tensor, " pos"],
    *,
    top: int = 20,
    feature: int | None = None,
) -> Firing:
    """Run `tokens` through `model` and `dictionary`; activations are compared as float32.

    Args:
        top: how many features of every token, at least 1; all of them where there are fewer.
        feature: the feature whose activations to return at every token.

    Raises:
        UsageError: there are too many tokens, or ids that the model does not have.
        DictionaryError: activations are not finite.
    """
    if top < 1:
        raise UsageError(f"ask for at least 1 feature per token, got {top}")
    if feature is not None and not 0 <= feature < dictionary.n_features:
        raise UsageError(
            f"feature {feature} is out of range: {dictionary.name} has features 0 to "
            f"{dictionary.n_features - 1}"
        )
    top = min(top, dictionary.n_features)
    read = read_function(dictionary, model)
    features, strongest, row = [], [], []
    size = max(1, BLOCK_BYTES // (4 * dictionary.n_features))
    for block in torch.split(_stream(model, dictionary.read_site, tokens), size):
        activations = dictionary.encode(read(block).to(dictionary.keys)).float()
        if not bool(activations.sum().isfinite()):
            raise DictionaryError(
                f"{dictionary.name} gives activations that are not finite on this text: "
                "is it a dictionary of this model and layer?"
            )
        best, at = _strongest(activations, top)
        strongest.append(best)
        features.append(at)
        if feature is not None:
            row.append(activations[:, feature])
    return Firing(torch.cat(features), torch.cat(strongest), torch.cat(row) if row else None)


@torch.no_grad()
def sample_activations(
    model: ResidualModel,
    dictionary: FeatureDictionary,
    tokens: Int64[Tensor, "samples pos"],
    feature: int,
) -> Float32[Tensor, "samples pos"]:
    """One feature's activation at every token of samples that fit into memory together."""
    site = dictionary.read_site
    stream = model.sites(tokens.to(model.device), last=site)[site]
    read = read_function(dictionary, model)
    size = max(1, BLOCK_BYTES // (4 * dictionary.n_features))
    blocks = torch.split(stream.flatten(0, 1), size)
    rows = [dictionary.encode(read(each).to(dictionary.keys))[:, feature] for each in blocks]
    return torch.cat(rows).float().view(tokens.shape)


def _strongest(
    activations: Float32[Tensor, "some n_features"], top: int
) -> tuple[Float32[Tensor, "some top"], Int64[Tensor, "some top"]]:
    best = activations.topk(top, dim=-1)
    # Equal activations in order of features, which `topk` does not guarantee.
    features, order = best.indices.sort(dim=-1)
    values, order = best.values.gather(-1, order).sort(dim=-1, descending=True, stable=True)
    features = features.gather(-1, order)
    silent = values <= 0
    return values.masked_fill(silent, 0), features.masked_fill(silent, -1)


def _stream(
    model: ResidualModel, site: int, tokens: Int64[Tensor, " pos"]
) -> Float[Tensor, "pos d_model"]:
    """The stream at `site`.

    The text is padded to a power of two; later tokens cannot affect earlier ones.
    """
    length, limit = len(tokens), getattr(model.bridge.cfg, "n_ctx", None)
    if length == 0:
        raise UsageError("the text has no tokens: write something")
    if limit and length > limit:
        raise UsageError(
            f"the text has {length} tokens and {model.name} reads {limit} at most: shorten it"
        )
    least, largest = int(tokens.min()), int(tokens.max())
    if least < 0 or largest >= model.d_vocab:
        raise UsageError(
            f"token id {least if least < 0 else largest} is not in the vocabulary (0 to "
            f"{model.d_vocab - 1}): remove it from the text"
        )
    too_long = UsageError(
        f"a text of {length} tokens does not fit into the memory of {model.device}: shorten it"
    )
    padded = max(_SHORTEST, 1 << (length - 1).bit_length())
    filled = tokens.new_zeros(1, min(padded, limit or padded))
    filled[0, :length] = tokens
    if _bytes(model, filled.shape[1]) > free_bytes(model.device):
        raise too_long
    try:
        return model.sites(filled.to(model.device), last=site)[site][0, :length]
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        release(model.device)
        raise too_long from error


def _bytes(model: ResidualModel, length: int) -> int:
    """Peak memory of a pass over one sample: streams, attention scores, logits."""
    scores = _SCORES * model.bridge.cfg.n_heads * length
    streams = (model.n_blocks + _WORKING_STREAMS) * model.d_model
    size: int = model.dtype.itemsize * length * (streams + scores + model.d_vocab)
    return size
