"""Neutral prefixes as texts that a model reads."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from lens_core.errors import UsageError
from lens_core.model import ResidualModel
from lens_core.neutral_prefixes import SCORING
from lens_core.reference import ReferenceSample, beginning
from lens_core.short_texts import filled_up


def scoring_prefixes(model: ResidualModel, *, prepend_bos: bool) -> ReferenceSample:
    """The prefixes behind which output scores are observed.

    Raises:
        UsageError: the model has no tokenizer, or no beginning-of-sequence token where one is
            asked for.
    """
    tokenizer = model.tokenizer
    bos = beginning(tokenizer, model.d_vocab) if prepend_bos and tokenizer is not None else []
    return prefix_sample(SCORING, tokenizer, bos)


def prefix_sample(
    prefixes: Sequence[str], tokenizer: PreTrainedTokenizerBase | None, bos: Sequence[int] = ()
) -> ReferenceSample:
    """The prefixes as short texts, each read at its last token.

    Raises:
        UsageError: the model has no tokenizer.
    """
    if tokenizer is None:
        raise UsageError("output scores need a tokenizer and the model has none")
    rows = [
        (*bos, *tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        for text in prefixes
    ]
    digest = hashlib.sha256("\n".join(prefixes).encode()).hexdigest()[:12]
    tokens, ends = filled_up(rows)
    return ReferenceSample(tokens, f"{len(rows)} prefixes {digest}", ends=ends)
