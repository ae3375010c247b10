"""Reads a corpus for the contexts of every feature of some layers; what `qlens contexts` does.

One pass of the model over the corpus serves as many layers as fit into memory together. What was
found so far is written from time to time: a run that is killed goes on from there, in passes of
the same samples, and gives the same files as one that is not.

Cost: the passes up to the last layer, and per layer one of the encoder (`lens_core.tally`).
Memory: the dictionaries of the layers, 1.5 KB per feature, and 8 bytes per token of the corpus.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lens_core.contexts.files import (
    TOP,
    Reading,
    corpus_directory,
    layer_file,
    read_reading,
    write_corpus,
    write_reading,
)
from lens_core.dictionaries.feature_dictionary import FeatureDictionary
from lens_core.errors import StoreError
from lens_core.lens import QueryLens
from lens_core.memory import free_bytes
from lens_core.reference import ReferenceSample
from lens_core.storage.files import build_lock
from lens_core.tally import Pass, Tally, passes, samples_per_pass
from lens_core.terms import Progress

KEEP_AFTER = 15.0
"""Seconds of reading after which what was found is written."""
_WRITINGS = 20  # times as long as the last writing took, at least, between two
# A dictionary with the copy that its encoder holds, and as much again while it is loaded.
_COPIES = 4


@dataclass(frozen=True)
class Collected:
    """One dictionary's features after a corpus was read; `density` is the mean over them."""

    layer: int
    dictionary: str
    features: int
    silent: int
    density: float
    file: Path


def collect_contexts(
    lens: QueryLens,
    corpus: ReferenceSample,
    layers: Sequence[int],
    cache: Path,
    *,
    progress: Progress | None = None,
) -> list[Collected]:
    """Find what `corpus` says of the dictionaries of `layers`, from the cache if it is there.

    `progress` is called with the tokens that this call has read and those that it has to read,
    which are the corpus again for layers that do not fit into memory with the first ones.

    Raises:
        StoreError: another process is doing this, or the disk is full.
        DictionaryError: a dictionary cannot be loaded, or its activations are not finite.
    """
    reference = lens.text
    directory = corpus_directory(cache, corpus, reference)
    counted = corpus.n_tokens // corpus.samples
    collected: list[Collected] = []
    read = 0
    with build_lock(directory):
        write_corpus(directory, corpus, reference)
        for group in _groups(lens, directory, layers):
            reading = [run for run in group if run.samples < corpus.samples]
            collected += [_collected(run) for run in group if run not in reading]
            if not reading:
                continue
            later = -(-(len(layers) - len(collected) - len(reading)) // len(group))
            first = min(run.samples for run in reading)
            total = read + corpus.samples - first + later * corpus.samples

            def report(samples: int, before: int = read - first, total: int = total) -> None:
                if progress is not None:
                    progress((before + samples) * counted, total * counted)

            _read(lens, corpus, reading, first, report)
            read += corpus.samples - first
            collected += map(_collected, reading)
    return sorted(collected, key=lambda each: each.layer)


@dataclass
class _Run:
    """One dictionary's part of a reading: its features after the first `samples`.

    `batch` is that of the passes in which they were read; `None`: none were.
    """

    dictionary: FeatureDictionary
    file: Path
    tally: Tally
    skipped: int
    samples: int = 0
    batch: int | None = None

    def take(self, found: Pass, included: slice) -> None:
        """Add the samples that are not yet counted."""
        known = self.samples - found.first
        if known < found.samples:
            stream = found.streams[self.dictionary.read_site][known:, included]
            self.tally.add(stream, self.samples)
            self.samples = found.first + found.samples

    def write(self, batch: int) -> None:
        self.batch = batch
        write_reading(self.file, Reading(self.tally.activity(self.skipped), self.samples, batch))


def _groups(lens: QueryLens, directory: Path, layers: Sequence[int]) -> Iterator[list[_Run]]:
    """The layers' runs, each with its dictionary loaded, as many at a time as memory holds."""
    group: list[_Run] = []
    for layer in layers:
        dictionary = lens.dictionary(layer)
        group.append(_begun(lens, directory, dictionary))
        next_one = _COPIES * (dictionary.keys.nbytes + dictionary.values.nbytes)
        if 2 * next_one > free_bytes(lens.model.device):
            yield group
            group = []
    if group:
        yield group


def _begun(lens: QueryLens, directory: Path, dictionary: FeatureDictionary) -> _Run:
    """A run from where its file ends, or from the beginning."""
    model, skipped = lens.model, lens.text.skip_first
    file = directory / layer_file(model, dictionary)
    try:
        found = read_reading(file)
    except StoreError:  # none, or damaged
        return _Run(dictionary, file, Tally(model, dictionary, TOP), skipped)
    tally = Tally(model, dictionary, TOP, found.activity, skipped)
    return _Run(dictionary, file, tally, skipped, found.samples, found.batch)


def _read(
    lens: QueryLens,
    corpus: ReferenceSample,
    runs: Sequence[_Run],
    first: int,
    report: Callable[[int], None],
) -> None:
    """Read the samples from `first` on for some dictionaries, and write what is found."""
    batch = next((run.batch for run in runs if run.batch), lens.carrier.batch)
    if batch is None:
        batch = samples_per_pass(lens.model, corpus)
    sites = sorted({run.dictionary.read_site for run in runs})
    written, took = time.monotonic(), 0.0
    with torch.no_grad():
        for found in passes(lens.model, sites, corpus, batch, first=first):
            for run in runs:
                run.take(found, corpus.included)
            done = found.first + found.samples
            if done < corpus.samples:
                batch = found.samples  # lower if memory was short
            report(done)
            since = time.monotonic() - written
            if done == corpus.samples or since > max(KEEP_AFTER, _WRITINGS * took):
                start = time.monotonic()
                for run in runs:
                    run.write(batch)
                written = time.monotonic()
                took = written - start


def _collected(run: _Run) -> Collected:
    activity = run.tally.activity(run.skipped)
    return Collected(
        layer=run.dictionary.layer,
        dictionary=run.dictionary.name,
        features=run.dictionary.n_features,
        silent=int((activity.density == 0).sum()),
        density=float(activity.density.mean()),
        file=run.file,
    )
