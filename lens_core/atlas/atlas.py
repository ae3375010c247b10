"""The whole dictionary of a layer as one polars frame: a row for every feature.

Every number is the one that `QueryLens.signature` gives for the feature with operators:

    ids, scores    top k of  readout(T v)                     per side and lens
    coherence      mean pairwise cosine of the tokens' rows   per list; gain = query - logit
    overlap        |query & logit| / k                        per side
    moved          Logit Lens's rank less Query Lens's        per token of Query Lens's list
    stability      |A & B| / |A u B|, A and B the lists of the two halves of the reference

Coherence is taken of unembedding rows on the value side and of embedding rows on the key
side, less the vocabulary's mean row on both. The readout of keys has another centre, the
reference's mean embedding, which is that of frequent tokens: seen from there all rare tokens
lie in one direction, and any list of them would look coherent. From the vocabulary's mean,
random tokens have coherence 0 on both sides, so that 0 means "no common theme" and the
gains of the two sides can be compared.

Costs five products of the dictionary with the vocabulary a side, `10 n d V` multiplications
in all, and one forward pass over the reference. They are made for `ROWS_PER_PIECE` features
at a time, and the best tokens are taken from each block of scores before the next one is
computed (`blocked_topk`). Memory is therefore about 100 MiB plus the dictionary, the
vocabulary's rows and one block of scores, for any number of features. Each piece is written
to the cache when it is done. An interrupted run resumes at the next piece and gives the same
bits, because the pieces do not depend on where it was interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import torch
from polars import selectors
from torch import Tensor

from lens_core.atlas.files import (
    FORMAT,
    SCHEMA,
    CachedLayer,
    find_layer,
    is_whole_piece,
    piece_name,
    write_piece,
)
from lens_core.coherence import coherence, overlap
from lens_core.dictionaries.feature_dictionary import FeatureDictionary
from lens_core.directories import ATLAS
from lens_core.feature_map import site_of, vectors_of
from lens_core.feature_scores import scales
from lens_core.lens import QueryLens
from lens_core.lenses import LENSES, LOGIT, QUERY
from lens_core.stability import stability
from lens_core.storage.files import build_lock
from lens_core.storage.fingerprint import fingerprint, versions
from lens_core.terms import SIDES, Progress, Side

# Affects the last bits of the results: BLAS sums in another order for another shape. One piece
# takes about ten seconds on two CPU cores at GPT-2's shape; an interrupted one is lost.
ROWS_PER_PIECE = 1024
# As many as `qlens show` prints.
CONTEXTS = 5


def atlas(
    lens: QueryLens,
    layer: int,
    *,
    k: int | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> pl.DataFrame:
    """The features of `layer`, with the columns of `lens_core.atlas.files.SCHEMA`.

    Always computed by operators, so with the paper's convention and the final norm applied.

    Args:
        k: tokens per list; `None` is the lens's own.
        cache: use rows that this cache directory holds, and keep new ones there.
        progress: called with the features done and their total.

    Raises:
        OperatorError: there are no operators yet.
    """
    k = _size(lens, k)
    if cache is not None:
        return atlas_layer(lens, layer, cache, k=k, progress=progress).scan().collect()
    dictionary = lens.dictionary(layer)
    frames = []
    for rows in _pieces(dictionary.n_features):
        tick = _ticking(progress, rows.start, dictionary.n_features)
        frames.append(_frame(lens, dictionary, layer, rows, k, tick))
        if progress is not None:
            progress(rows.stop, dictionary.n_features)
    return pl.concat(frames)


def atlas_layer(
    lens: QueryLens,
    layer: int,
    cache: Path,
    *,
    k: int | None = None,
    progress: Progress | None = None,
) -> CachedLayer:
    """Compute the atlas of `layer` into the cache, piece by piece, unless it is there.

    The divisors that `search` needs for the layer are cached as well.
    `progress` is called with the features done and the number that were missing.

    Raises:
        OperatorError: there are no operators yet.
        StoreError: another process is computing it, or the disk is full; finished pieces are kept.
    """
    k = _size(lens, k)
    dictionary = lens.dictionary(layer)
    name = atlas_fingerprint(lens, layer, k)
    found = find_layer(cache, name)
    if found is not None:
        return found
    directory = cache / ATLAS / name
    n = dictionary.n_features
    pieces = {rows: directory / piece_name(rows, n) for rows in _pieces(n)}
    with build_lock(directory):
        missing = {rows: path for rows, path in pieces.items() if not is_whole_piece(path)}
        done, total = 0, sum(map(len, missing))
        if missing:
            # Else an atlas that lacks stability because of damage would be cached as complete.
            for side in SIDES:
                lens.carrier.operators_for(dictionary).demand_sums(site_of(side, dictionary))
        for side in SIDES if missing else ():
            scales(lens, dictionary, side, QUERY)  # cached: a first search need not wait for them
        for rows, path in missing.items():
            tick = _ticking(progress, done, total)
            frame = _frame(lens, dictionary, layer, rows, k, tick)
            write_piece(frame, path, _provenance(lens, dictionary, layer, k))
            done += len(rows)
            if progress is not None:
                progress(done, total)
    return CachedLayer(directory, tuple(pieces.values()))


def atlas_fingerprint(lens: QueryLens, layer: int, k: int | None = None) -> str:
    """Fingerprint of everything the layer's atlas depends on; the name of its directory."""
    dictionary, same = lens.dictionary(layer), lens.text is lens.carrier.reference
    return fingerprint(
        {
            **({} if same else {"text": lens.text.sha256}),
            "kind": "atlas",
            "format": FORMAT,
            "model": lens.model.fingerprint,
            "layer": layer,
            "dictionary": dictionary.sha256,
            "reference": lens.carrier.reference.sha256,
            "operators": lens.carrier.operators_for(dictionary).fingerprint,
            "dtype": str(lens.model.dtype),
            "k": _size(lens, k),
            "rows_per_piece": ROWS_PER_PIECE,
            "versions": versions(),
        }
    )


def _size(lens: QueryLens, k: int | None) -> int:
    d_vocab: int = lens.model.d_vocab
    return min(lens.k if k is None else k, d_vocab)


def _pieces(n_features: int) -> Iterator[range]:
    for start in range(0, n_features, ROWS_PER_PIECE):
        yield range(start, min(start + ROWS_PER_PIECE, n_features))


def _ticking(progress: Progress | None, done: int, total: int) -> Callable[[], None]:
    """A function to call between two products, where progress may cancel."""

    def tick() -> None:
        if progress is not None:
            progress(done, total)

    return tick


def _provenance(
    lens: QueryLens, dictionary: FeatureDictionary, layer: int, k: int
) -> dict[str, Any]:
    reference = lens.carrier.reference
    return {
        "kind": "atlas",
        "format": FORMAT,
        "model": lens.model.name,
        "model_fingerprint": lens.model.fingerprint,
        "layers": [
            {
                "layer": layer,
                "dictionary": dictionary.name,
                "dictionary_sha256": dictionary.sha256,
                "features": dictionary.n_features,
                "atlas": atlas_fingerprint(lens, layer, k),
            }
        ],
        "reference": {
            "samples": reference.samples,
            "length": reference.length,
            "skip_first": reference.skip_first,
            "skip_last": reference.skip_last,
            "sha256": reference.sha256,
            "origin": reference.origin,
        },
        "operators": lens.carrier.operators_for(dictionary).fingerprint,
        "dtype": str(lens.model.dtype).removeprefix("torch."),
        "k": k,
        "transition": "full",
        "convention": "paper",
        "final_norm": "apply",
        "versions": versions(),
    }


@torch.no_grad()
def _frame(
    lens: QueryLens,
    dictionary: FeatureDictionary,
    layer: int,
    rows: range,
    k: int,
    tick: Callable[[], None],
) -> pl.DataFrame:
    columns = {"feature": torch.arange(rows.start, rows.stop)}
    for side in SIDES:
        for name, found in _side(lens, side, dictionary, rows, k, tick).items():
            columns[f"{side}_{name}"] = found
    # Last: if a feature's contexts are asked for meanwhile, the pass is already cached.
    columns |= _activity(lens, layer, rows)
    frame = pl.DataFrame([_series(name, found) for name, found in columns.items()])
    # A feature that fired less often has fewer contexts; one that never fired has none.
    fired = pl.col("context_samples").list.eval(pl.element() >= 0).list.sum()
    frame = frame.with_columns(pl.lit(layer).alias("layer"), selectors.float().fill_nan(None))
    return frame.with_columns(
        selectors.starts_with("context_").list.head(fired), *_without_direction(frame)
    ).select(_typed(frame, name, dtype) for name, dtype in SCHEMA.items())


def _without_direction(frame: pl.DataFrame) -> Iterator[pl.Expr]:
    """Set the lists of vectors of length zero, and everything derived from them, to null."""
    for side in SIDES:
        has_direction = pl.col(f"{side}_norm") > 0
        for name in frame.columns:
            if name.startswith(f"{side}_") and not name.endswith("_norm"):
                yield pl.when(has_direction).then(pl.col(name)).alias(name)


def _typed(frame: pl.DataFrame, name: str, dtype: Any) -> pl.Expr:
    """A column; null for a lens that has no list here."""
    column = pl.col(name) if name in frame.columns else pl.lit(None)
    return column.cast(dtype).alias(name)


def _series(name: str, found: Tensor) -> pl.Series:
    series = pl.Series(name, found.cpu().numpy())
    return series.arr.to_list() if found.ndim == 2 else series


def _activity(lens: QueryLens, layer: int, rows: range) -> dict[str, Tensor]:
    found, part = lens.activity(layer), slice(rows.start, rows.stop)
    samples, positions = (
        places[part, :CONTEXTS].cpu().long() for places in (found.top_samples, found.top_positions)
    )
    return {
        "silent": found.density[part] == 0,
        "density": found.density[part],
        "max_activation": found.max_activation[part],
        "context_samples": samples,
        "context_positions": positions,
        "context_ids": lens.text.tokens.cpu()[samples, positions],
        "context_activations": found.top_activations[part, :CONTEXTS],
    }


def _side(
    lens: QueryLens,
    side: Side,
    dictionary: FeatureDictionary,
    rows: range,
    k: int,
    tick: Callable[[], None],
) -> dict[str, Tensor]:
    start = vectors_of(side, dictionary)[rows.start : rows.stop]
    there = [each for each in LENSES if not each.missing(lens, side)]
    carried = {each.name: each.map(lens, side, dictionary)(start) for each in there}
    readouts = {each.name: each.readout(lens, side, dictionary) for each in there}
    tick()
    query, query_scores = readouts[QUERY.name].top_k(carried[QUERY.name], k)
    lists = {QUERY.name: (query, query_scores)}
    tick()
    for each in there:
        if each is LOGIT:
            ids, scores, ranks = readouts[each.name].top_k_and_ranks(start, k, query)
            lists[each.name] = ids, scores
        elif each is not QUERY:
            lists[each.name] = readouts[each.name].top_k(carried[each.name], k)
        tick()
    moved = ranks - torch.arange(query.shape[1], device=ranks.device)
    readout = readouts[QUERY.name]
    found: dict[str, Tensor] = {"norm": start.norm(dim=-1)}
    # From the vocabulary's mean row on both sides: see the head of this file.
    tokens = readouts[LOGIT.name]
    for each in there:
        ids, scores = lists[each.name]
        found |= {
            f"{each.column}_ids": ids,
            f"{each.column}_scores": scores,
            f"{each.column}_coherence": coherence(ids, tokens.rows, tokens.center),
        }
        if each is not LOGIT:
            found[f"{each.column}_norm"] = carried[each.name].norm(dim=-1)
    part = slice(rows.start, rows.stop)
    found_stability = stability(lens.carrier, readout, side, dictionary, k, part)
    unknown = start.new_full((len(start),), float("nan"))
    return found | {
        "query_moved": moved,
        "overlap": overlap(lists[LOGIT.name][0], query),
        "median_moved": moved.double().quantile(0.5, dim=-1),
        "stability": found_stability if found_stability is not None else unknown,
        "gain": found["query_coherence"] - found["logit_coherence"],
    }
