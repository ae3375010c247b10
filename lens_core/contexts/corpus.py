"""The tokens of a corpus, cut into samples as the reference's are.

The same rules (`lens_core.reference`): documents are tokenised without special tokens, joined,
and cut into chunks as long as the reference's samples (`EVIDENCE_LENGTH` tokens if these are short
texts), with the same beginning and the same
positions left out. A corpus is not drawn from: its samples are all of its chunks, in order, up
to the number of tokens asked for. Left out are samples of the reference, which is to be
explained by other text, and chunks across a token that the model lacks.

The text is read piece by piece and only as far as needed. Memory: 8 bytes per token.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from jaxtyping import Int64
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lens_core.contexts.source import CorpusSource
from lens_core.errors import QlensWarning, SampleError, UsageError
from lens_core.reference import EVIDENCE_LENGTH, ReferenceSample, beginning, token_stream


def read_corpus(
    source: CorpusSource,
    tokenizer: PreTrainedTokenizerBase | None,
    reference: ReferenceSample,
    *,
    d_vocab: int,
    prepend_bos: bool,
    tokens: int,
    offline: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ReferenceSample:
    """Samples like `reference`'s with `tokens` tokens that count, rounded up; or all there are.

    Args:
        progress: called with the tokens read and how many are wanted at most.

    Raises:
        SampleError: the text cannot be read, or gives no sample.
        UsageError: the model has no tokenizer.
    """
    if tokenizer is None:
        raise UsageError("a corpus needs a tokenizer and the model has none")
    bos = beginning(tokenizer, d_vocab) if prepend_bos else []
    length = reference.length if reference.ends is None else EVIDENCE_LENGTH
    width = length - len(bos)
    if width == 0:
        raise UsageError("samples of the reference hold one token, which is that of prepend_bos")
    wanted = -(-tokens // (length - reference.skip_first - reference.skip_last))
    # As many more as can be samples of the reference.
    enough = (wanted + reference.samples) * width
    documents = source.documents(offline=offline)
    stream, gaps = token_stream(documents, tokenizer, d_vocab, enough, progress)
    chunks = min(len(stream), enough) // width
    if not chunks:
        held = f"{len(stream):,} tokens" if stream else "no text"
        raise SampleError(
            f"corpus {source} holds {held} and a sample takes {width}: take a longer text"
        )
    pool = torch.frombuffer(stream, dtype=torch.int64)[: chunks * width].view(chunks, width)
    across = gaps.chunks(width)
    if gaps.tokens:
        warnings.warn(
            f"corpus {source}: {gaps.said(d_vocab)} and were left out, with "
            f"{len(across):,} of {chunks:,} samples",
            QlensWarning,
            stacklevel=2,
        )
    whole = [chunk for chunk in range(chunks) if chunk not in across]
    samples = torch.cat([torch.tensor(bos).long().expand(len(whole), -1), pool[whole]], dim=1)
    samples = _without(samples, reference)[:wanted]
    if not len(samples):
        raise SampleError(f"corpus {source} gives no sample that the reference lacks: take another")
    return ReferenceSample(samples, str(source), reference.skip_first, reference.skip_last)


def _without(
    samples: Int64[Tensor, "samples length"], reference: ReferenceSample
) -> Int64[Tensor, "rest length"]:
    known = set(map(tuple, reference.tokens.tolist()))
    new = [tuple(row) not in known for row in samples.tolist()]
    return samples[torch.tensor(new, dtype=torch.bool)]
