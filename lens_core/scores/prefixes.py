"""Neutral prefixes: beginnings of sentences that could go on about anything, of our own writing.

`SCORING` are those behind which output scores observe what a feature raises; `TUNING` may be used
to make or choose a lens. No prefix is in both, so that a lens is never judged on what it was made
from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from lens_core.errors import UsageError
from lens_core.model import ResidualModel
from lens_core.reference import ReferenceSample, beginning
from lens_core.short_texts import filled_up

SCORING: tuple[str, ...] = (
    "Findings show that",
    "It is known that",
    "In the end, they",
    "The results suggest",
    "She said that the",
    "He told us about",
    "We found that",
    "There was a",
    "According to the report",
    "This is the",
    "People often think that",
    "The first thing is",
    "After that, the",
    "One of the most",
    "I would like to",
    "They were looking for",
    "Most of them are",
    "It was a very",
    "The other day I",
    "In many cases the",
    "You can see the",
    "What we need is",
    "The reason is that",
    "Some of us",
    "As far as we know",
    "The next step is",
    "Nobody knew what",
    "At that time the",
    "My friend has a",
    "We have seen how",
    "It turned out that",
    "For this reason, the",
    "The story is about",
    "On the other hand,",
    "Every year the",
    "He was asked to",
    "Later that day,",
    "The main point of",
    "They have always been",
    "It seems that",
    "Here is the",
    "That is why we",
    "The old man",
    "Before long, it",
    "Our work is",
    "The book says that",
    "When they arrived, the",
    "Let us look at",
    "Without any doubt",
    "She had never been",
    "The problem with this",
    "From time to time",
    "There are many",
    "Once again, he",
    "The best way to",
    "I think the",
    "In this place",
    "Both of these are",
    "Even so, we",
    "The list of",
    "Among other things, the",
    "It took them a",
    "Nothing in this",
    "To begin with, I",
    "The name of the",
    "He has never",
    "Whatever happens, the",
    "This has been a",
    "Many years later, the",
    "The question was whether",
    "We do not have",
    "Outside, the",
    "One day she",
    "The same is true",
    "For a long time he",
    "You will need a",
    "Only then did the",
    "This morning the",
    "Its purpose is",
    "At first, it",
    "The fact is",
    "There is no",
    "They agreed that the",
    "As a result, many",
    "If possible, the",
    "What she said was",
    "People have been",
    "The rest of the",
    "Even now, the",
    "It may be that",
    "Our plan is",
    "Instead of the",
    "He looked at the",
    "So I went",
    "Neither of us",
    "A few of the",
    "The way it",
    "Soon after that, they",
    "In other words, the",
    "She keeps a",
)

TUNING: tuple[str, ...] = (
    "It has been said that",
    "The answer to this",
    "We went to the",
    "All of the",
    "During the night, a",
    "He thought about",
    "Their house is",
    "If you want to",
    "Now and then the",
    "The people who",
    "She wanted to know",
    "In the past, this",
    "Another way is to",
    "Few of them had",
    "The child was",
    "To be honest, I",
    "These are the",
    "It is not clear",
    "So far, the",
    "Looking back, they",
    "The last of the",
    "What happened was that",
    "You might have a",
    "By the time we",
    "Perhaps the",
    "His answer was",
    "Much of what they",
    "This kind of",
    "The whole idea is",
    "They came from",
    "As you know, the",
    "Several of those",
    "The two of them",
    "Just then, a",
    "Although it is",
    "Since then he has",
    "The way in which",
    "Anyone who is",
    "Not long ago, the",
    "We are all",
    "After a while, she",
    "It was not the",
    "The point is",
    "Whenever they",
    "You could say that",
    "With this in mind",
    "His first",
    "Near the end of",
    "The others were",
    "That was when I",
    "We have to",
    "Some time ago",
    "To my surprise,",
    "In general, people",
    "Here they",
    "The only thing that",
    "Both the",
    "He wrote that the",
    "Every one of",
    "This would be",
)


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
