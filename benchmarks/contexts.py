"""(contexts) Contexts of all features of a layer against the forward passes that they need.

The demo's layer 10, and all of its layers at once; the passes are those of the residual stream to
the last layer, over the same held-out samples in the same batches. The ratio is of CPU time on one
thread, which other processes change little; the time for 158,720 tokens is an estimate from the
time that these samples take on all threads. What `qlens contexts` also does, reading the text and
writing a few MB, is a second or two in all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import torch

from benchmarks.measure import Report, Row, Times, peak_memory, progress, timed
from benchmarks.shape import TINY
from lens_core.contexts.files import TOP
from lens_core.dictionaries.feature_dictionary import FeatureDictionary
from lens_core.model import ResidualModel
from lens_core.reference import ReferenceSample
from lens_core.tally import Tally, passes

RATIO_AT_MOST, SECONDS_AT_MOST, TOKENS = 1.5, 180, 158_720
_BATCHES, _ROUNDS = 2, 4


def run(*, quick: bool) -> Report:
    if quick:
        model, corpus = TINY.model(), TINY.reference(64)
        every = [TINY.dictionary(layer, 64) for layer in range(TINY.n_layers - 1)]
    else:
        model, corpus, every = _demo()
    middle = [every[len(every) // 2]]
    rounds = 1 if quick else _ROUNDS
    rows = []
    for dictionaries in (middle, every):
        layers = ", ".join(str(each.layer) for each in dictionaries)
        progress(f"contexts of layer {layers}")
        runs = [partial(what, model, corpus, dictionaries) for what in (_passes, _contexts)]
        bare, full = _cpu_times(runs, rounds)
        rows.append(
            Row(
                f"layer {layers}: contexts over forward passes", full.smallest / bare.smallest,
                "x", full.spread, RATIO_AT_MOST,
            )
        )  # fmt: skip
        whole = min(timed(runs[1]) for _ in range(rounds)) * TOKENS / corpus.n_tokens
        target = SECONDS_AT_MOST if dictionaries is middle else None
        rows.append(Row(f"layer {layers}: {TOKENS:,} tokens", whole, "s", "", target))
    said = (
        f"{corpus.samples} samples of {corpus.length} tokens, timed in turns, smallest of each",
    )
    return Report("(contexts) contexts against forward passes", said, (*rows, peak_memory()))


def _cpu_times(runs: Sequence[Callable[[], None]], rounds: int) -> list[Times]:
    """CPU seconds of each on one thread, in turns."""
    seconds: list[list[float]] = [[] for _ in runs]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(rounds):
            for run, took in zip(runs, seconds, strict=True):
                start = time.process_time()
                run()
                took.append(time.process_time() - start)
    finally:
        torch.set_num_threads(threads)
    return [Times(tuple(each)) for each in seconds]


def _demo() -> tuple[ResidualModel, ReferenceSample, list[FeatureDictionary]]:
    from lens_core.config import load_config
    from lens_core.contexts.corpus import read_corpus
    from lens_core.contexts.source import CorpusSource
    from lens_core.session import open_session
    from lens_core.tally import samples_per_pass

    session = open_session(load_config("demo"), offline=True)
    model, reference = session.model, session.reference
    samples = _BATCHES * samples_per_pass(model, reference)
    corpus = read_corpus(
        CorpusSource.parse("bundled"), model.tokenizer, reference, d_vocab=model.d_vocab,
        prepend_bos=False, tokens=samples * (reference.n_tokens // reference.samples),
    )  # fmt: skip
    lens = session.lens
    return model, corpus, [lens.dictionary(layer) for layer in lens.dictionaries.layers]


@torch.no_grad()
def _passes(
    model: ResidualModel, corpus: ReferenceSample, dictionaries: Sequence[FeatureDictionary]
) -> None:
    for _ in passes(model, [each.read_site for each in dictionaries], corpus, None):
        pass


@torch.no_grad()
def _contexts(
    model: ResidualModel, corpus: ReferenceSample, dictionaries: Sequence[FeatureDictionary]
) -> None:
    tallies = [(Tally(model, each, TOP), each.read_site) for each in dictionaries]
    for found in passes(model, [site for _, site in tallies], corpus, None):
        for tally, site in tallies:
            tally.add(found.streams[site][:, corpus.included], found.first)
