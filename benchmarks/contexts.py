"""(contexts) Contexts of all features of a layer against the forward passes that they need.

The demo's layer 10, and all of its layers at once; the passes are those of the residual stream to
the last layer, over the same held-out samples in the same batches. What `qlens contexts` also
does, reading the text and writing a few MB, is a second or two in all. The time for 158,720
tokens is an estimate from the time per sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from benchmarks.measure import Report, Row, in_turns, peak_memory, progress
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
    progress("contexts")
    runs = {}
    for what, dictionaries in (("one layer", middle), ("all layers", every)):
        runs[f"{what}: passes"] = partial(_passes, model, corpus, dictionaries)
        runs[f"{what}: contexts"] = partial(_contexts, model, corpus, dictionaries)
    times = in_turns(runs, rounds)
    rows = []
    for what, dictionaries in (("one layer", middle), ("all layers", every)):
        bare, full = times[f"{what}: passes"], times[f"{what}: contexts"]
        layers = ", ".join(str(each.layer) for each in dictionaries)
        whole = full.smallest * TOKENS / corpus.n_tokens
        rows += [
            Row(
                f"layer {layers}: contexts over forward passes",
                full.smallest / bare.smallest, "x", full.spread, RATIO_AT_MOST,
            ),
            Row(
                f"layer {layers}: {TOKENS:,} tokens", whole, "s", "",
                SECONDS_AT_MOST if dictionaries is middle else None,
            ),
        ]  # fmt: skip
    said = (
        f"{corpus.samples} samples of {corpus.length} tokens, timed in turns, smallest of each",
    )
    return Report("(contexts) contexts against forward passes", said, (*rows, peak_memory()))


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
