"""(g) The signature of the feature under the cursor, as the engine computes it.

What the engine does for a cursor move, on random operators and a random dictionary, features one
after another: both sides, three lenses, best and worst 100 tokens, ranks moved, stability by
halves, token strings by a tokenizer of GPT-2's kind and size; then encoding the message and
decoding it, as the app does. The pipe between the processes and the paint (part f) are not
included.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import numpy as np
import transformers
from tokenizers import Tokenizer, decoders, models

from benchmarks.measure import Report, Row, peak_memory, progress
from benchmarks.shape import GPT2_SMALL, TINY
from benchmarks.workplace import vocabulary
from lens_core.lens import QueryLens
from lens_core.terms import Settings
from lens_core.vocabulary import Vocabulary
from qlens_tui.engine.events import Event, SignatureReady
from qlens_tui.engine.handlers import LONGEST
from qlens_tui.engine.wire import decode, encode

AT_MOST = 60
"""Milliseconds (p95), on a CPU."""
_Taken = tuple[float, float, int]


def run(*, quick: bool) -> Report:
    shape, again = (TINY, 5) if quick else (GPT2_SMALL, 200)
    layer = shape.n_layers // 2 - 1
    progress(f"a model of {shape.name}")
    bare = shape.lens(32, {layer: shape.dictionary(layer, again + 1)})
    words = Vocabulary(_tokenizer(), shape.d_vocab)
    lens = QueryLens(bare.carrier, bare.dictionaries, words)
    lens.prepare()  # as the engine does when it opens a session
    progress(f"{again} signatures and toggles")
    blocks = range(shape.n_layers * 2)
    features = range(again + 1)
    full = ((feature, Settings()) for feature in features)
    toggled = ((3, _first_order(blocks[i % len(blocks)])) for i in features)
    half_off = ((feature, _first_order(*blocks[::2])) for feature in features)
    rows = [
        *_rows("signature, full", lens, layer, full),
        *_rows("first order, one feature, a block toggled", lens, layer, toggled),
        *_rows("first order, every other block off", lens, layer, half_off),
        peak_memory(),
    ]
    said = (
        f"{shape}; layer {layer}",
        "values and keys, three lenses, best and worst 100, token strings; encoded and decoded",
    )
    return Report("(g) a signature from operators, until the app has it", said, tuple(rows))


def _first_order(*off: int) -> Settings:
    return Settings(transition="first-order", off=frozenset(off))


def _rows(
    what: str, lens: QueryLens, layer: int, asked: Iterable[tuple[int, Settings]]
) -> list[Row]:
    taken = [_answered(lens, layer, *each) for each in asked][1:]
    whole = [1000 * (answer + wire) for answer, wire, _ in taken]
    wire = [1000 * each for _, each, _ in taken]
    number = f"of {len(taken)}, at most {max(whole):.0f} ms"
    share = f"{100 * sum(wire) / sum(whole):.1f}% of all, {taken[-1][2] / 1000:.1f} kB"
    return [
        Row(f"{what}, p50", float(np.quantile(whole, 0.5)), "ms", number),
        Row(f"{what}, p95", float(np.quantile(whole, 0.95)), "ms", "", AT_MOST),
        Row(
            "  of it on the wire (encoding and decoding), p50", float(np.median(wire)), "ms", share
        ),
    ]


def _answered(
    lens: QueryLens, layer: int, feature: int, settings: Settings
) -> tuple[float, float, int]:
    """Seconds of the answer, seconds of encoding and decoding it, and the number of bytes."""
    start = time.perf_counter()
    found = lens.signature(layer, feature, settings, length=LONGEST, bottom=True)
    event = SignatureReady(signature=found)
    answered = time.perf_counter()
    content = encode(event)
    assert decode(content, Event) == event
    return answered - start, time.perf_counter() - answered, len(content)


def _tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Byte-level, as GPT-2's is; every token is a made-up word."""
    pieces = {text.replace(" ", "\u0120"): number for number, text in enumerate(vocabulary())}
    words = Tokenizer(models.BPE(vocab=pieces, merges=[]))
    words.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words)
