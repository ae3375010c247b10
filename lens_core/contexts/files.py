"""Contexts in the cache: the corpus's tokens, and what was found in them for each dictionary.

    <cache>/contexts/<corpus>/tokens.safetensors          its samples, and where they come from
    <cache>/contexts/<corpus>/<layer>.safetensors         the activity of one dictionary's features

`<corpus>` is the fingerprint of the tokens and of the reference whose samples are left out of
them; `<layer>` that of model, dictionary, precision, format and versions. Every file has a
checksum inside and is replaced as a whole. One that a run has not finished has the same name: its
metadata says how many samples it is about, from which the next run goes on.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from lens_core.activity import BINS, KEPT, FeatureActivity
from lens_core.dictionaries.feature_dictionary import FeatureDictionary
from lens_core.directories import CONTEXTS, caches
from lens_core.errors import DamagedError, QlensWarning, StoreError
from lens_core.model import ResidualModel
from lens_core.reference import ReferenceSample
from lens_core.storage.files import clear_directory
from lens_core.storage.fingerprint import fingerprint, versions
from lens_core.storage.tensors import open_tensors, write_tensors

FORMAT = 2
TOP = 20
"""The strongest contexts that are kept of every feature, and the first ones."""
TOKENS = "tokens.safetensors"


@dataclass(frozen=True, eq=False)
class LayerContexts:
    """What a corpus says of one dictionary's features; `sha256` is the corpus's fingerprint."""

    corpus: ReferenceSample
    sha256: str
    activity: FeatureActivity


@dataclass(frozen=True, eq=False)
class Reading:
    """A run's state: the activity in the first `samples` of a corpus, `batch` read at once."""

    activity: FeatureActivity
    samples: int
    batch: int


def corpus_directory(cache: Path, corpus: ReferenceSample, reference: ReferenceSample) -> Path:
    """Where a corpus is kept."""
    told = {"kind": "corpus", "format": FORMAT, "tokens": corpus.sha256}
    return cache / CONTEXTS / fingerprint(told | {"reference": reference.sha256})


def layer_file(model: ResidualModel, dictionary: FeatureDictionary) -> str:
    """The name of a dictionary's file in the directory of any corpus."""
    of = fingerprint(
        {
            "kind": "contexts",
            "format": FORMAT,
            "model": model.fingerprint,
            "dictionary": dictionary.sha256,
            "layer": dictionary.layer,
            "dtype": str(model.dtype),
            "kept": [TOP, BINS, KEPT],
            "versions": versions(),
        }
    )
    return f"{of}.safetensors"


def write_corpus(directory: Path, corpus: ReferenceSample, reference: ReferenceSample) -> None:
    """Keep a corpus, unless it is there undamaged."""
    path = directory / TOKENS
    try:
        read_corpus_file(path)
    except StoreError:
        clear_directory(path)
        facts = {
            "kind": "corpus",
            "origin": corpus.origin,
            "tokens": str(corpus.n_tokens),
            "samples": str(corpus.samples),
            "skip_first": str(corpus.skip_first),
            "skip_last": str(corpus.skip_last),
            "reference": reference.sha256,
        }
        write_tensors(path, {"tokens": corpus.tokens.int()}, facts)


def read_corpus_file(path: Path) -> ReferenceSample:
    """The corpus in a file.

    Raises:
        StoreError: it cannot be read, or is damaged.
    """
    with open_tensors(path) as file:
        file.verify()
        facts = _facts(path, file.metadata, "corpus")
        return ReferenceSample(
            file.get("tokens").long(),
            facts["origin"],
            int(facts["skip_first"]),
            int(facts["skip_last"]),
        )


def write_reading(path: Path, reading: Reading) -> None:
    """Keep the state of a run, or its result, for one dictionary."""
    clear_directory(path)
    tensors = {k: v for k, v in vars(reading.activity).items() if isinstance(v, torch.Tensor)}
    facts = {
        "kind": "contexts",
        "n_tokens": str(reading.activity.n_tokens),
        "samples": str(reading.samples),
        "batch": str(reading.batch),
    }
    write_tensors(path, tensors, facts)


def read_reading(path: Path) -> Reading:
    """What `write_reading` kept.

    Raises:
        StoreError: it cannot be read, or is damaged.
    """
    with open_tensors(path) as file:
        file.verify()
        facts = _facts(path, file.metadata, "contexts")
        names = file.keys()
        tensors = {name: file.get(name) for name in names}
    activity = FeatureActivity(n_tokens=int(facts["n_tokens"]), **tensors)
    return Reading(activity, int(facts["samples"]), int(facts["batch"]))


def verify_file(path: Path) -> None:
    """Refuse a file of this cache that is damaged.

    Raises:
        StoreError: it is, or it cannot be read.
    """
    read_corpus_file(path) if path.name == TOKENS else read_reading(path)


_State = tuple[Path, int, int]
"""A layer's file, and when it and its corpus were written."""


class ContextShelf:
    """What corpora say of a model's dictionaries, found anew when asked; the last one is kept."""

    def __init__(self, cache: Path, model: ResidualModel, reference: ReferenceSample) -> None:
        self._cache = cache
        self._model = model
        self._reference = reference
        self._last: tuple[_State, LayerContexts] | None = None
        self._refused: set[_State] = set()

    def get(self, dictionary: FeatureDictionary) -> LayerContexts | None:
        """The contexts in the longest corpus that was read to its end; `None`: there is none.

        Warns of a damaged file, once, and goes on to the next corpus.
        """
        for state in self._finished(dictionary):
            if self._last is not None and self._last[0] == state:
                return self._last[1]
            path = state[0]
            try:
                activity = read_reading(path).activity
                corpus = read_corpus_file(path.with_name(TOKENS))
            except StoreError as error:
                self._refused.add(state)
                told = f"{error}: run `qlens contexts` again"
                warnings.warn(told, QlensWarning, stacklevel=2)
                continue
            found = LayerContexts(corpus, path.parent.name, activity)
            self._last = state, found
            return found
        return None

    def find(self, dictionary: FeatureDictionary) -> str | None:
        """The `sha256` of what `get` returns, unless that turns out to be damaged; reads little."""
        return next((state[0].parent.name for state in self._finished(dictionary)), None)

    def _finished(self, dictionary: FeatureDictionary) -> Iterator[_State]:
        """The files about whole corpora, longest first, without those that are damaged."""
        name = layer_file(self._model, dictionary)
        for _, samples, directory in sorted(self._corpora(), reverse=True):
            path = directory / name
            try:
                with open_tensors(path) as file:
                    facts = _facts(path, file.metadata, "contexts")
                corpus = directory / TOKENS
                state = path, path.stat().st_mtime_ns, corpus.stat().st_mtime_ns
            except (StoreError, OSError):
                continue  # absent, or damaged: `qlens cache verify` tells
            if facts["samples"] == str(samples) and state not in self._refused:
                yield state

    def _corpora(self) -> Iterator[tuple[int, int, Path]]:
        """The corpora without this reference's samples: their tokens, samples and directories."""
        for root in caches(self._cache):
            for directory in _directories(root / CONTEXTS):
                try:
                    with open_tensors(directory / TOKENS) as file:
                        facts = _facts(directory / TOKENS, file.metadata, "corpus")
                except StoreError:
                    continue  # being written, or damaged: `qlens cache verify` tells
                if facts["reference"] == self._reference.sha256:
                    yield int(facts["tokens"]), int(facts["samples"]), directory


def _facts(path: Path, metadata: Mapping[str, str], kind: str) -> Mapping[str, str]:
    if metadata.get("kind") != kind:
        raise DamagedError(f"{path} is not a file of contexts")
    return metadata


def _directories(root: Path) -> list[Path]:
    try:
        return [root / name for name in os.listdir(root)]
    except OSError:
        return []
