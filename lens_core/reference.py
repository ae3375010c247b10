"""The reference: the tokens at which every Jacobian is taken and every average is formed.

Lens results are conditional on it (paper, section 3.2: 1024 x 32 tokens of the
Pile), so how it comes about is fixed here, once, for all sources:

- documents are tokenised without special tokens and joined into one stream,
  with nothing in between: a separator would be the end-of-text token, which for
  GPT-2 is also the padding that a reference must not hold;
- the stream ends after `POOL_SAMPLES` times the tokens asked for, or after
  `POOL_TOKENS` if that is more, so that a corpus of any size costs about the
  same, while few samples still come from many documents;
- it is cut into contiguous chunks, and the samples are the first chunks in the
  order of SHA-256("SEED:CHUNK"). That order is the same on every machine and
  under every library version, which NumPy and torch do not promise of theirs,
  and a smaller reference is the beginning of a larger one from the same stream.

With `prepend_bos` a sample is the beginning-of-sequence token and a chunk of
`length - 1`. A token file is the sample itself: nothing is cut, drawn or added.
"""

from __future__ import annotations

import bz2
import hashlib
import json
import reprlib
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lens_core.config import ReferenceConfig
from lens_core.dictionaries.hub import is_offline
from lens_core.errors import SampleError, UsageError, one_line

POOL_SAMPLES = 16
POOL_TOKENS = 1 << 18
# A larger data set, or one that does not say its size, is read over the network as far as needed.
DOWNLOAD_LIMIT = 1 << 30
_PIECE = 1 << 20  # bytes of a text file tokenised at once
_CENTER_ROWS = 4096  # embedding rows in float64 at once


@dataclass(frozen=True, eq=False)
class ReferenceSample:
    """Token ids without padding, and which positions count.

    `origin` says where they come from. The first `skip_first` and the last
    `skip_last` positions of every sample are left out of all averages; they
    remain context for the others.
    """

    tokens: Int64[Tensor, "samples length"]
    origin: str
    skip_first: int = 0
    skip_last: int = 0

    def __post_init__(self) -> None:
        if min(self.skip_first, self.skip_last) < 0:
            raise UsageError("[reference].skip_first and skip_last must not be negative")
        if self.skip_first + self.skip_last >= self.length:
            raise UsageError(
                f"[reference].skip_first {self.skip_first} and skip_last {self.skip_last} leave "
                f"no position of samples of {self.length} tokens: lower them"
            )

    @property
    def samples(self) -> int:
        return self.tokens.shape[0]

    @property
    def length(self) -> int:
        """Tokens of a sample, those left out of the averages among them."""
        return self.tokens.shape[1]

    @property
    def included(self) -> slice:
        """The positions that count."""
        return slice(self.skip_first, self.length - self.skip_last)

    @property
    def n_tokens(self) -> int:
        """How many tokens count: the denominator of every average."""
        return self.samples * (self.length - self.skip_first - self.skip_last)

    @cached_property
    def sha256(self) -> str:
        """Of what the numbers depend on: shape, tokens and skips; not of `origin`."""
        head = f"{self.samples} {self.length} {self.skip_first} {self.skip_last}\n"
        ids = self.tokens.cpu().contiguous().numpy().astype("<i8")
        return hashlib.sha256(head.encode() + ids.tobytes()).hexdigest()

    def split_halves(self) -> tuple[slice, slice]:
        """Two disjoint halves of the samples, for split-half stability.

        The second is the larger one of an odd number; of a single sample it is
        empty, and a stability is then unknown.
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
    """The sample that `config` describes; of a token file, `samples` and `length` are its own.

    Raises:
        SampleError: the source cannot be read, is too short, or is not for this model.
        UsageError: the settings contradict each other or the tokenizer.
    """
    source = config.parsed_source
    if source.kind == "tokens":
        tokens = read_token_file(Path(source.location), d_vocab)
    else:
        if source.kind == "hub":
            documents = hub_documents(source.location, offline=offline)
        elif source.kind == "text":
            documents = text_documents(Path(source.location))
        else:
            documents = bundled_documents()
        tokens = sample_chunks(documents, tokenizer, config)
        largest = int(tokens.max())
        if largest >= d_vocab:
            raise SampleError(
                f"the tokenizer gives token id {largest} but the model has {d_vocab} tokens: "
                "it is another model's tokenizer"
            )
    return ReferenceSample(tokens, str(source), config.skip_first, config.skip_last)


def sample_chunks(
    documents: Iterable[str], tokenizer: PreTrainedTokenizerBase | None, config: ReferenceConfig
) -> Int64[Tensor, "samples length"]:
    """Cut `documents` and draw samples, by the rules at the top of this module."""
    if tokenizer is None:
        raise UsageError(
            f'[reference].source "{config.source}" needs a tokenizer and the model has none: '
            'give token ids, "tokens:FILE.json"'
        )
    bos = beginning(tokenizer) if config.prepend_bos else []
    width = config.length - len(bos)
    if width == 0:
        raise UsageError("[reference].length must be at least 2 with prepend_bos")

    enough = max(POOL_SAMPLES * config.samples * width, POOL_TOKENS)
    stream = array("q")
    for document in documents:
        # `verbose` is about texts longer than the model's context, which is meant here.
        stream.extend(tokenizer(document, add_special_tokens=False, verbose=False)["input_ids"])
        if len(stream) >= enough:
            break
    chunks = min(len(stream), enough) // width
    if chunks < config.samples:
        raise SampleError(
            f"{config.source} gives {chunks} chunks of {width} tokens and [reference] asks for "
            f"{config.samples}: lower samples or length, or take a longer text"
        )
    pool = torch.frombuffer(stream, dtype=torch.int64)[: chunks * width].view(chunks, width)
    tokens = pool[_draw(chunks, config.samples, config.seed)]
    return torch.cat([torch.tensor(bos).long().expand(len(tokens), -1), tokens], dim=1)


def _draw(chunks: int, samples: int, seed: int) -> list[int]:
    def key(chunk: int) -> bytes:
        return hashlib.sha256(f"{seed}:{chunk}".encode()).digest()

    return sorted(range(chunks), key=key)[:samples]


def beginning(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The beginning-of-sequence token.

    Raises:
        UsageError: there is none.
    """
    if tokenizer.bos_token_id is None:
        raise UsageError(
            "[reference].prepend_bos is true and the tokenizer has no "
            "beginning-of-sequence token: set it to false"
        )
    return [tokenizer.bos_token_id]


def bundled_documents() -> Iterator[str]:
    """The text shipped with qlens (sources: `lens_core/data/LICENSES.md`), as one document."""
    packed = (files("lens_core") / "data" / "reference.txt.bz2").read_bytes()
    yield bz2.decompress(packed).decode("utf-8")


def text_documents(path: Path) -> Iterator[str]:
    """A UTF-8 text file, in pieces of whole lines so that one of any size can be begun."""
    at = 0
    try:
        with path.open("rb") as file:
            while lines := file.readlines(_PIECE):
                piece = b"".join(lines)
                text = piece.decode("utf-8")
                yield (text if at else text.removeprefix("\ufeff")).replace("\r\n", "\n")
                at += len(piece)
    except OSError as error:
        raise SampleError(f"reference text {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SampleError(
            f"reference text {path} is not UTF-8 (byte {at + error.start}): save it as UTF-8"
        ) from error


def hub_documents(name: str, *, offline: bool) -> Iterator[str]:
    """Column `text` of the train split of a data set on the Hugging Face hub.

    Up to `DOWNLOAD_LIMIT` the data set is kept in the cache of `datasets`, from
    which it is read when the hub is out of reach.
    """
    try:
        # With the prefix, a folder OWNER/NAME in the working directory is never taken for it.
        yield from train_texts(f"hf://datasets/{name}", offline=offline)
    except SampleError as error:
        raise SampleError(f"data set {name}: {error}") from None
    except Exception as error:  # whatever datasets, the hub's client and Arrow raise
        raise _hub_error(name, error, offline=offline) from error


def train_texts(path: str, *, offline: bool) -> Iterator[str]:
    """Column `text` of the train split of anything that `datasets` can load."""
    import datasets

    with _offline_mode(offline):
        builder = datasets.load_dataset_builder(path)
    size = builder.info.download_size
    if size is None or size > DOWNLOAD_LIMIT:
        rows = builder.as_streaming_dataset(split="train")
    else:
        builder.download_and_prepare()
        rows = builder.as_dataset(split="train")
    for number, row in enumerate(rows):
        text = row.get("text")
        if not isinstance(text, str):
            raise SampleError(
                f'row {number} has no text in a column "text"; its columns are {", ".join(row)}'
            )
        yield text


@contextmanager
def _offline_mode(offline: bool) -> Iterator[None]:
    """`datasets` reads its switch at import, which may have been before ours was known."""
    from datasets import config

    before = config.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = before or offline or is_offline()
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = before


def _hub_error(name: str, error: Exception, *, offline: bool) -> SampleError:
    import datasets
    import httpx
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    page = f"{datasets.config.HF_ENDPOINT}/datasets/{name}"
    missing = (datasets.exceptions.DatasetNotFoundError, RepositoryNotFoundError)
    unreachable = (ConnectionError, TimeoutError, httpx.TransportError, LocalEntryNotFoundError)
    # `datasets` turns a GatedRepoError into a DatasetNotFoundError that only its text tells apart.
    if isinstance(error, GatedRepoError) or (isinstance(error, missing) and "gated" in str(error)):
        return SampleError(f"data set {name} is gated: accept its terms on {page}, set HF_TOKEN")
    if isinstance(error, missing):
        return SampleError(
            f"there is no data set {name} on the hub, or it is private: check the name on {page}, "
            "set HF_TOKEN for a private one"
        )
    if isinstance(error, unreachable):
        forbidden = offline or is_offline() or datasets.config.HF_HUB_OFFLINE
        return SampleError(
            f"data set {name} is not in the cache and "
            f"{'this run is offline' if forbidden else 'the hub cannot be reached'}: it would be "
            f'fetched from {page}; connect once, or set [reference].source = "bundled"'
        )
    return SampleError(f"data set {name} cannot be read: {one_line(error)}")


def check_file(config: ReferenceConfig) -> None:
    """Refuse a file that cannot be read, or holds no tokens, before a model is loaded for it."""
    source = config.parsed_source
    if source.kind == "tokens":
        _token_rows(Path(source.location), None)
    elif source.kind == "text":
        next(text_documents(Path(source.location)), None)


def read_token_file(path: Path, d_vocab: int) -> Int64[Tensor, "samples length"]:
    """A JSON file with a `[samples][length]` list of token ids below `d_vocab`."""
    return torch.tensor(_token_rows(path, d_vocab), dtype=torch.int64)


def _token_rows(path: Path, d_vocab: int | None) -> list[list[int]]:
    try:
        rows = json.loads(path.read_bytes())
    except OSError as error:
        raise SampleError(f"token file {path} cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise SampleError(f"token file {path} is not JSON: nested too deeply") from error
    except ValueError as error:  # JSON, its encoding, or Python's limit on the digits of an integer
        raise SampleError(f"token file {path} is not JSON: {one_line(error)}") from error

    if not isinstance(rows, list) or not rows:
        raise SampleError(
            f"token file {path} must hold a [samples][length] list of token ids, "
            f"not {reprlib.repr(rows)}"
        )
    for sample, row in enumerate(rows):
        _check_sample(f"token file {path}, sample {sample}", row, rows[0], d_vocab)
    return rows


def _check_sample(where: str, row: Any, first: Any, d_vocab: int | None) -> None:
    if not isinstance(row, list) or not row:
        raise SampleError(f"{where}: must be a list of token ids, not {reprlib.repr(row)}")
    if len(row) != len(first):
        raise SampleError(
            f"{where}: has {len(row)} tokens, sample 0 has {len(first)}: "
            "a reference has no padding, make them equally long"
        )
    for position, token in enumerate(row):
        if type(token) is not int:  # true and false are integers to Python
            raise SampleError(
                f"{where}, position {position}: {reprlib.repr(token)} is not an integer token id"
            )
        if d_vocab is not None and not 0 <= token < d_vocab:
            raise SampleError(
                f"{where}, position {position}: {reprlib.repr(token)} is not a token id "
                f"of the model (0 to {d_vocab - 1})"
            )


def reference_center(
    embedding: Float[Tensor, "d_vocab d_model"], reference: ReferenceSample
) -> Float[Tensor, " d_model"]:
    """Mean token embedding of the reference tokens that count, summed in float64.

    The centre of Query Lens's input-end readout (paper, section 3.3): of the
    tokens of the reference, each as often as it occurs, not of the vocabulary.
    """
    ids, counts = torch.unique(reference.tokens[:, reference.included], return_counts=True)
    total = torch.zeros(embedding.shape[1], dtype=torch.float64)  # on the CPU: MPS has no float64
    for rows, times in zip(ids.split(_CENTER_ROWS), counts.split(_CENTER_ROWS), strict=True):
        total += times.double().cpu() @ embedding[rows.to(embedding.device)].cpu().double()
    return (total / reference.n_tokens).to(embedding)
