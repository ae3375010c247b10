"""References of short texts, each read at its last token only: openings and prompts.

Where the average is taken decides more than anything else about a value's list (docs/method.md,
section 7): short, varied texts that are read where they end do better than all positions of
running text.

- **Openings** are the first words of sentences of a text, as many as a hash says, that make from
  `SHORTEST` to `length` tokens. A sentence begins with a capital letter, after the end of another;
  openings with anything but letters, commas, hyphens and apostrophes are left out.
- **Prompts** are lines of a file, or rows of a data set. Of one with more than `length` tokens the
  last ones are kept, and this is reported.

Samples are the first different ones in the order of SHA-256("SEED:NUMBER"), as in
`lens_core.reference`. With `prepend_bos` the beginning-of-sequence token stands in front.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence

import torch
from jaxtyping import Int64
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lens_core.config import ReferenceConfig
from lens_core.errors import QlensWarning, SampleError, UsageError

SHORTEST = 3
"""Tokens of the shortest opening."""
_POOL, _POOL_TIMES = 1 << 13, 16
"""So many openings, or as many times those asked for if that is more, are drawn from."""
_WORDS = re.compile(r"[^\W\d_]+(?:(?:, |[ '’-])[^\W\d_]+)*")
_SENTENCE = re.compile(r'(?:^|(?<=[.!?])["”’)]*\s+|\n\s*)(?P<first>[A-Z][^\n]*?)(?=[.!?;:]|\n|$)')


def openings(
    documents: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    config: ReferenceConfig,
    d_vocab: int,
    bos: Sequence[int] = (),
) -> tuple[Int64[Tensor, "samples length"], Int64[Tensor, " samples"]]:
    """Openings of sentences, and the position of each one's last token.

    Raises:
        UsageError: `length` is less than that of the shortest opening.
        SampleError: the text has too few.
    """
    longest = config.length - len(bos)
    if longest < SHORTEST:
        raise UsageError(
            f"[reference].length {config.length} is too short for openings, which have at least "
            f"{SHORTEST} tokens: raise it"
        )
    found: dict[tuple[int, ...], None] = {}
    enough = max(_POOL, _POOL_TIMES * config.samples)
    for number, sentence in enumerate(_sentences(documents)):
        words = sentence.split(" ")
        wanted = 2 + _hash(config.seed, number) % (longest - 1)
        opening = " ".join(words[:wanted]).rstrip(",")
        if len(words) <= wanted or not _WORDS.fullmatch(opening):  # a whole sentence is no opening
            continue
        ids = tokenizer(opening, add_special_tokens=False, verbose=False)["input_ids"]
        if SHORTEST <= len(ids) <= longest and max(ids) < d_vocab:
            found.setdefault(tuple(ids))
        if len(found) == enough:
            break
    if len(found) < config.samples:
        raise SampleError(
            f"{config.source} gives {len(found)} openings of sentences and [reference] asks for "
            f"{config.samples}: lower samples, or take a longer text"
        )
    return filled_up([(*bos, *text) for text in _drawn(list(found), config)])


def prompts(
    documents: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    config: ReferenceConfig,
    d_vocab: int,
    bos: Sequence[int] = (),
) -> tuple[Int64[Tensor, "samples length"], Int64[Tensor, " samples"]]:
    """Prompts, `samples` of them or all there are, and the position of each one's last token.

    Raises:
        SampleError: there is none.
    """
    longest = config.length - len(bos)
    if longest < 1:
        raise UsageError("[reference].length must be at least 2 with prepend_bos")
    found: dict[tuple[int, ...], None] = {}
    shortened = missing = 0
    for text in documents:
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if not ids:
            continue
        if max(ids) >= d_vocab:
            missing += 1
            continue
        before = len(found)
        found.setdefault(tuple(ids[-longest:]))
        shortened += len(ids) > longest and len(found) > before
    if missing:
        _warn(f"{config.source}: {missing:,} prompts with tokens that the model lacks are left out")
    if shortened:
        _warn(
            f"{config.source}: of {shortened:,} prompts only the last {longest} tokens are used; "
            "raise [reference].length for more"
        )
    if not found:
        raise SampleError(f"{config.source} holds no prompt: write one on each line")
    return filled_up([(*bos, *text) for text in _drawn(list(found), config)])


def lines(documents: Iterable[str]) -> Iterator[str]:
    """The lines of a text that are not blank."""
    for document in documents:
        yield from (line for line in document.split("\n") if line.strip())


def _sentences(documents: Iterable[str]) -> Iterator[str]:
    for document in documents:
        for match in _SENTENCE.finditer(document):
            yield match["first"]


def _hash(seed: int, number: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{number}:length".encode()).digest()[:8], "big")


def _drawn(texts: Sequence[tuple[int, ...]], config: ReferenceConfig) -> Sequence[tuple[int, ...]]:
    def order(number: int) -> bytes:
        return hashlib.sha256(f"{config.seed}:{number}".encode()).digest()

    return [texts[number] for number in sorted(range(len(texts)), key=order)[: config.samples]]


def filled_up(
    rows: Sequence[tuple[int, ...]],
) -> tuple[Int64[Tensor, "samples length"], Int64[Tensor, " samples"]]:
    """Texts as rows of equal length, filled up with each one's last token, and its position."""
    length = max(map(len, rows))
    ends = torch.tensor([len(row) - 1 for row in rows])
    return torch.tensor([row + row[-1:] * (length - len(row)) for row in rows]), ends


def _warn(text: str) -> None:
    warnings.warn(text, QlensWarning, stacklevel=4)
