"""The reference: the tokens at which every Jacobian is taken and every average is formed.

Lens results depend on it (paper, section 3.2: 1024 x 32 tokens of the Pile), so the
rules for making it are fixed here for all sources:

- documents are tokenised without special tokens and joined into one stream,
  with nothing in between: a separator would be the end-of-text token, which for
  GPT-2 is also the padding that a reference must not hold;
- the stream ends after `POOL_SAMPLES` times the requested tokens, or after
  `POOL_TOKENS` if that is more, so that a corpus of any size costs about the
  same, and even a few samples come from many documents;
- it is cut into contiguous chunks, and the samples are the first chunks in the
  order of SHA-256("SEED:CHUNK"). Unlike the random generators of NumPy and torch,
  that order is the same on every machine and for every library version, and a
  smaller reference is the beginning of a larger one from the same stream;
- tokens of the tokenizer for which the model's embedding has no row are left out and
  reported; chunks across such a gap come after all others in that order.

With `prepend_bos` a sample is the beginning-of-sequence token and a chunk of
`length - 1` tokens. A token file is used as it is: nothing is cut, drawn or added.
"""

from __future__ import annotations

import hashlib
import warnings
from array import array
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lens_core.config import ReferenceConfig
from lens_core.documents import bundled_documents, hub_documents, text_documents
from lens_core.errors import QlensWarning, SampleError, UsageError
from lens_core.neutral_prefixes import TUNING
from lens_core.short_texts import lines, openings, prompts
from lens_core.token_file import read_token_file, token_rows

POOL_SAMPLES = 16
POOL_TOKENS = 1 << 18
EVIDENCE_SAMPLES, EVIDENCE_LENGTH = 64, 33
"""Chunks of running text in which features are looked for if the reference is openings."""
_CENTER_ROWS = 4096  # embedding rows in float64 at once
_HASHED_ROWS = 4096  # samples


@dataclass(frozen=True, eq=False)
class ReferenceSample:
    """Token ids, and the positions that count.

    `origin` says where they come from. The first `skip_first` and the last
    `skip_last` positions of every sample are left out of all averages; they
    remain context for the others.

    Short texts are each read at their last token only: `ends` are these positions, the only
    targets; tokens up to there are sources. What fills a row after that is never read: no
    earlier position depends on it.
    """

    tokens: Int64[Tensor, "samples length"]
    origin: str
    skip_first: int = 0
    skip_last: int = 0
    ends: Int64[Tensor, " samples"] | None = None

    def __post_init__(self) -> None:
        if min(self.skip_first, self.skip_last) < 0:
            raise UsageError("[reference].skip_first and skip_last must not be negative")
        if self.skip_first + self.skip_last >= self.length:
            raise UsageError(
                f"[reference].skip_first {self.skip_first} and skip_last {self.skip_last} leave "
                f"no position of samples of {self.length} tokens: lower them"
            )
        if self.ends is not None and (self.skip_last or int(self.ends.min()) < self.skip_first):
            raise UsageError(
                f"[reference].skip_first {self.skip_first} and skip_last {self.skip_last} leave "
                "out the last token of a text, which is the only one read: lower them"
            )

    @property
    def samples(self) -> int:
        return self.tokens.shape[0]

    @property
    def length(self) -> int:
        """Tokens per sample, including those left out of the averages."""
        return self.tokens.shape[1]

    @property
    def included(self) -> slice:
        """The positions that count."""
        return slice(self.skip_first, self.length - self.skip_last)

    @property
    def n_tokens(self) -> int:
        """How many targets there are: the denominator of every average."""
        if self.ends is not None:
            return self.samples
        return self.samples * (self.length - self.skip_first - self.skip_last)

    @property
    def n_sources(self) -> int:
        """How many tokens count as sources."""
        return int(self.counts.sum())

    @cached_property
    def counts(self) -> Bool[Tensor, "samples length"]:
        """The sources: tokens that count as text."""
        found = torch.zeros(self.samples, self.length, dtype=torch.bool)
        found[:, self.included] = True
        if self.ends is not None:
            found &= torch.arange(self.length) <= self.ends[:, None]
        return found

    def ids(self, sample: int) -> list[int]:
        """The tokens of a sample."""
        row: list[int] = self.tokens[sample].tolist()
        return row if self.ends is None else row[: int(self.ends[sample]) + 1]

    @cached_property
    def sha256(self) -> str:
        """Sha256 of what results depend on: shape, tokens and skips, but not `origin`."""
        head = f"{self.samples} {self.length} {self.skip_first} {self.skip_last}\n"
        digest = hashlib.sha256(head.encode())
        for rows in torch.split(self.tokens, _HASHED_ROWS):  # copied, and a corpus may be large
            digest.update(rows.cpu().contiguous().numpy().astype("<i8").tobytes())
        if self.ends is not None:
            digest.update(b"ends" + self.ends.cpu().numpy().astype("<i8").tobytes())
        return digest.hexdigest()

    def split_halves(self) -> tuple[slice, slice]:
        """Two disjoint halves of the samples, for split-half stability.

        The second is larger for an odd number. A single sample all goes into the first
        half, and stability is then unknown.
        """
        middle = max(1, self.samples // 2)
        return slice(0, middle), slice(middle, self.samples)


def load_reference(
    config: ReferenceConfig,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    d_vocab: int,
    offline: bool,
) -> ReferenceSample:
    """The sample that `config` describes; a token file sets its own `samples` and `length`.

    Raises:
        SampleError: the source cannot be read, is too short, or has ids that the model lacks.
        UsageError: the settings contradict each other or the tokenizer.
    """
    source, ends = config.parsed_source, None
    if source.kind == "tokens":
        tokens = read_token_file(Path(source.location), d_vocab)
    else:
        documents = _documents(config, offline=offline)
        if config.kind == "chunks":
            tokens = sample_chunks(documents, tokenizer, config, d_vocab)
        else:
            tokens, ends = _short_texts(documents, tokenizer, config, d_vocab)
    return ReferenceSample(tokens, str(source), config.skip_first, config.skip_last, ends)


def load_evidence_text(
    config: ReferenceConfig,
    reference: ReferenceSample,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    d_vocab: int,
    offline: bool,
) -> ReferenceSample:
    """The text in which features are looked for, if no corpus was read.

    The reference itself, unless that is openings or bundled prefixes, too short to see where a
    feature fires: then running text of the same source.
    """
    own = config.kind == "prompts" and config.parsed_source.kind != "bundled"
    if config.kind == "chunks" or own:
        return reference
    as_chunks = replace(config, kind="chunks", samples=EVIDENCE_SAMPLES, length=EVIDENCE_LENGTH)
    documents = _documents(config, offline=offline)
    tokens = sample_chunks(documents, tokenizer, as_chunks, d_vocab)
    return ReferenceSample(tokens, reference.origin, config.skip_first)


def _documents(config: ReferenceConfig, *, offline: bool) -> Iterable[str]:
    source = config.parsed_source
    if source.kind == "hub":
        return hub_documents(source.location, offline=offline)
    if source.kind == "text":
        return text_documents(Path(source.location))
    return bundled_documents()


def _short_texts(
    documents: Iterable[str],
    tokenizer: PreTrainedTokenizerBase | None,
    config: ReferenceConfig,
    d_vocab: int,
) -> tuple[Int64[Tensor, "samples length"], Int64[Tensor, " samples"]]:
    tokenizer = _demanded(tokenizer, config)
    bos = beginning(tokenizer, d_vocab) if config.prepend_bos else []
    if config.kind == "openings":
        return openings(documents, tokenizer, config, d_vocab, bos)
    kind = config.parsed_source.kind
    if kind == "bundled":
        documents = TUNING
    elif kind == "text":
        documents = lines(documents)
    return prompts(documents, tokenizer, config, d_vocab, bos)


def _demanded(
    tokenizer: PreTrainedTokenizerBase | None, config: ReferenceConfig
) -> PreTrainedTokenizerBase:
    if tokenizer is None:
        raise UsageError(
            f'[reference].source "{config.source}" needs a tokenizer and the model has none: '
            'give token ids, "tokens:FILE.json"'
        )
    return tokenizer


def sample_chunks(
    documents: Iterable[str],
    tokenizer: PreTrainedTokenizerBase | None,
    config: ReferenceConfig,
    d_vocab: int,
) -> Int64[Tensor, "samples length"]:
    """Cut `documents` and draw samples, by the rules at the top of this module.

    Warns with a `QlensWarning` where the tokenizer has tokens that the model lacks.
    """
    tokenizer = _demanded(tokenizer, config)
    bos = beginning(tokenizer, d_vocab) if config.prepend_bos else []
    width = config.length - len(bos)
    if width == 0:
        raise UsageError("[reference].length must be at least 2 with prepend_bos")

    enough = max(POOL_SAMPLES * config.samples * width, POOL_TOKENS)
    stream, gaps = token_stream(documents, tokenizer, d_vocab, enough)
    chunks = min(len(stream), enough) // width
    if chunks < config.samples:
        advice = "lower samples or length, or take a longer text"
        if gaps.tokens:
            advice = f"{gaps.said(d_vocab)}; check that the tokenizer is the model's"
        raise SampleError(
            f"{config.source} gives {chunks} chunks of {width} tokens and [reference] asks for "
            f"{config.samples}: {advice}"
        )
    pool = torch.frombuffer(stream, dtype=torch.int64)[: chunks * width].view(chunks, width)
    across = gaps.chunks(width)
    drawn = _draw(chunks, config.samples, config.seed, across)
    if gaps.tokens:
        several = len(across.intersection(drawn))
        told = f"{config.source}: {gaps.said(d_vocab)} and were left out"
        if several:
            told += f"; {several} of {config.samples} samples run across such a gap"
        warnings.warn(told, QlensWarning, stacklevel=3)
    return torch.cat([torch.tensor(bos).long().expand(len(drawn), -1), pool[drawn]], dim=1)


def token_stream(
    documents: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    d_vocab: int,
    enough: int,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[array[int], Gaps]:
    """The tokens of documents one after another, and what is missing in between.

    Reads until there are `enough`; `progress` is called with how many there are, and `enough`.
    """
    stream, gaps = array("q"), Gaps()
    for document in documents:
        # `verbose` warns about texts longer than the model's context, which is intended here.
        ids = tokenizer(document, add_special_tokens=False, verbose=False)["input_ids"]
        gaps.append(stream, ids, d_vocab)
        if progress is not None:
            progress(min(len(stream), enough), enough)
        if len(stream) >= enough:
            break
    return stream, gaps


@dataclass
class Gaps:
    """Tokens without a row in the model's embedding, and where the stream has gaps."""

    tokens: int = 0
    ids: set[int] = field(default_factory=set)
    positions: list[int] = field(default_factory=list)  # in the stream, of what follows a gap
    read: int = 0

    def append(self, stream: array[int], ids: list[int], d_vocab: int) -> None:
        """Append to `stream` those of `ids` that the model has."""
        self.read += len(ids)
        if not ids or max(ids) < d_vocab:
            stream.extend(ids)
            return
        for token in ids:
            if token < d_vocab:
                stream.append(token)
                continue
            self.tokens += 1
            self.ids.add(token)
            self.positions.append(len(stream))

    def chunks(self, width: int) -> set[int]:
        """The chunks with a gap inside."""
        return {position // width for position in self.positions if position % width}

    def said(self, d_vocab: int) -> str:
        some = ", ".join(map(str, sorted(self.ids)[:4])) + ", ..." * (len(self.ids) > 4)
        return (
            f"{self.tokens:,} of {self.read:,} tokens (ids {some}) have no row in the model's "
            f"embedding of {d_vocab:,}"
        )


def _draw(chunks: int, samples: int, seed: int, last: Collection[int]) -> list[int]:
    """The first `samples` chunks in the order of their hashes, with those in `last` at the end."""

    def key(chunk: int) -> tuple[bool, bytes]:
        return chunk in last, hashlib.sha256(f"{seed}:{chunk}".encode()).digest()

    return sorted(range(chunks), key=key)[:samples]


def beginning(tokenizer: PreTrainedTokenizerBase, d_vocab: int | None = None) -> list[int]:
    """The beginning-of-sequence token.

    Raises:
        UsageError: there is none, or the model (of `d_vocab` tokens) has no row for it.
    """
    bos = tokenizer.bos_token_id
    if bos is None:
        raise UsageError(
            "[reference].prepend_bos is true and the tokenizer has no "
            "beginning-of-sequence token: set it to false"
        )
    if d_vocab is not None and bos >= d_vocab:
        raise UsageError(
            f"[reference].prepend_bos is true and the beginning-of-sequence token {bos} has no "
            f"row in the model's embedding of {d_vocab:,}: set it to false"
        )
    return [bos]


def check_file(config: ReferenceConfig) -> None:
    """Refuse a file that cannot be read or holds no tokens, before a model is loaded."""
    source = config.parsed_source
    if source.kind == "tokens":
        token_rows(Path(source.location), None)
    elif source.kind == "text":
        next(text_documents(Path(source.location)), None)


def reference_center(
    embedding: Float[Tensor, "d_vocab d_model"], reference: ReferenceSample
) -> Float[Tensor, " d_model"]:
    """Mean token embedding of the reference tokens that count, summed in float64.

    The centre of Query Lens's input-end readout (paper, section 3.3): of the
    tokens of the reference, each as often as it occurs, not of the vocabulary.
    """
    ids, counts = torch.unique(reference.tokens[reference.counts], return_counts=True)
    total = torch.zeros(embedding.shape[1], dtype=torch.float64)  # on the CPU: MPS has no float64
    for rows, times in zip(ids.split(_CENTER_ROWS), counts.split(_CENTER_ROWS), strict=True):
        total += times.double().cpu() @ embedding[rows.to(embedding.device)].cpu().double()
    return (total / reference.n_sources).to(embedding)
