"""The atlas as files: its columns, the pieces in the cache, and the exported table.

    <cache>/atlas/<fingerprint>/0001024-0001536-of-0001536.parquet     features 1024 to 1535

One directory is one layer's dictionary; its name is the fingerprint of everything that the
numbers depend on; its files are pieces of consecutive features, each sealed (`sealed_parquet`).
A layer is complete when all of its pieces are there. The pieces hold token ids; the strings,
which follow from the ids, are added to an exported table, for readers without the tokenizer.

Reading needs polars but not torch, so that a front end can show an atlas before, or without,
loading a model. Nothing here computes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl

from lens_core.directories import ATLAS, caches
from lens_core.errors import DamagedError, StoreError, UsageError
from lens_core.lenses import LENSES, LOGIT, QUERY
from lens_core.storage.files import clear_directory
from lens_core.storage.sealed_parquet import (
    check_place,
    read_about,
    replacing_table,
    write_sealed,
)
from lens_core.terms import SIDES

FORMAT = 4
_IDS, _FLOATS = pl.List(pl.Int32), pl.List(pl.Float32)
_OF_PIECE = {"layers", "piece", "sealed_sha256"}
_PIECE = re.compile(r"(\d{7,})-(\d{7,})-of-(\d{7,})\.parquet")


def _columns() -> Iterator[tuple[str, Any]]:
    yield from (("layer", pl.Int32), ("feature", pl.Int32), ("silent", pl.Boolean))
    yield from (("density", pl.Float32), ("max_activation", pl.Float32))
    for side in SIDES:
        for name in ("gain", "overlap", "median_moved", "stability"):
            yield f"{side}_{name}", pl.Float32
        lenses = [lens for lens in LENSES if side in lens.readouts]
        yield f"{side}_norm", pl.Float32
        for lens in lenses:
            if lens is not LOGIT:
                yield f"{side}_{lens.column}_norm", pl.Float32
        for lens in lenses:
            yield f"{side}_{lens.column}_ids", _IDS
            yield f"{side}_{lens.column}_scores", _FLOATS
            if lens is QUERY:
                yield f"{side}_{lens.column}_moved", _IDS
            yield f"{side}_{lens.column}_coherence", pl.Float32
    for name in ("samples", "positions", "ids"):
        yield f"context_{name}", _IDS
    yield "context_activations", _FLOATS


SCHEMA: Mapping[str, Any] = dict(_columns())
"""Names and types of the columns, in their order; lists are best first.

One row is one feature, named by `layer` and `feature`. `silent`: never above zero in the
reference; `density`: the share of its tokens on which it was; `context_*`: its strongest
contexts (sample, position in it, token id, activation), none for a silent feature.

For each side (`value`: what it promotes, `key`: what activates it) and lens (`logit`,
`query`, `first_order`): `*_ids` and `*_scores`, the best tokens; `*_coherence` (see
`lens_core.atlas.atlas`), null for lists of one token. `*_gain`: coherence of Query Lens's list
less that of Logit Lens's. `*_overlap`: the share of tokens that these two have in common.
`*_query_moved`: how many ranks each token of Query Lens's list rose against Logit Lens, and
`*_median_moved` their median. `*_stability`: Jaccard similarity of Query Lens's lists from
the two halves of the reference, null where these are not known. `*_norm`: the length of the
feature's own vector and, by lens, of the carried one; a key's scores divided by it are those
of a key of length one, which compare across features. Of a vector of length zero everything
but its length is null: it has no lists.

Model, dictionaries, reference and settings are the same in every row, and so are kept in the
file's provenance. A file with token strings has `*_tokens` columns after those of the ids.
"""

TOKENS = {
    f"{name}_ids": f"{name}_tokens"
    for name in (*(f"{side}_{lens.column}" for side in SIDES for lens in (LOGIT, QUERY)), "context")
}
"""The columns of ids for which strings are added, and the columns of the strings."""


@dataclass(frozen=True)
class Atlas:
    """A table and where it comes from (model, dictionaries by layer, reference, settings)."""

    frame: pl.DataFrame
    provenance: Mapping[str, Any]


@dataclass(frozen=True)
class CachedLayer:
    """One layer's atlas in a cache: its pieces, in the order of their features."""

    directory: Path
    pieces: tuple[Path, ...]

    @cached_property
    def provenance(self) -> dict[str, Any]:
        return read_about(self.pieces[0])

    def scan(self) -> pl.LazyFrame:
        """The rows, read when collected."""
        # A directory's name is not a pattern, whatever characters it has.
        return pl.scan_parquet(list(self.pieces), glob=False)


def piece_name(rows: range, n_features: int) -> str:
    return f"{rows.start:07d}-{rows.stop:07d}-of-{n_features:07d}.parquet"


def write_piece(frame: pl.DataFrame, path: Path, provenance: Mapping[str, Any]) -> None:
    """Keep consecutive features of a layer; `path` is in the directory of its fingerprint."""
    clear_directory(path)
    write_sealed(frame, path, {**provenance, "piece": path.name})


def is_whole_piece(path: Path) -> bool:
    """Whether a piece is there, undamaged, and holds the layer and rows that its path names."""
    try:
        demand_piece(path)
    except StoreError:
        return False
    return True


def demand_piece(path: Path) -> None:
    """Refuse a piece that is damaged, or holds another layer or other rows than its path names.

    Raises:
        DamagedError: it is.
        StoreError: it cannot be read.
    """
    about = read_about(path)
    try:
        layers = [layer["atlas"] for layer in about["layers"]]
        if (layers, about["piece"]) != ([path.parent.name], path.name):
            raise DamagedError(f"{path} holds other features than its name says")
    except (KeyError, TypeError):
        raise DamagedError(f"{path} is not a piece of an atlas") from None


def find_layer(cache: Path, fingerprint: str) -> CachedLayer | None:
    """The layer with this fingerprint, if a cache holds all of it; every piece is verified."""
    for root in caches(cache):
        directory = root / ATLAS / fingerprint
        names = sorted(name for name in _listed(directory) if _PIECE.fullmatch(name))
        bounds = [tuple(map(int, re.findall(r"\d+", name))) for name in names]
        joined = all(one[1] == next_[0] for one, next_ in pairwise(bounds))
        covers = bool(bounds) and bounds[0][0] == 0 and bounds[-1][1] == bounds[-1][2]
        pieces = tuple(directory / name for name in names)
        if joined and covers and all(map(is_whole_piece, pieces)):
            return CachedLayer(directory, pieces)
    return None


def with_tokens(frame: pl.LazyFrame, texts: Sequence[str]) -> pl.LazyFrame:
    """Add token strings for the ids that `TOKENS` names; `texts` are those of all ids, raw."""
    names, ids = (
        pl.Series(texts, dtype=pl.String),
        pl.int_range(len(texts), dtype=pl.Int32, eager=True),
    )

    def named(column: str) -> pl.Expr:
        token = pl.element().replace_strict(ids, names, return_dtype=pl.String)
        return pl.col(column).list.eval(token).alias(TOKENS[column])

    order = [name for column in SCHEMA for name in (column, TOKENS.get(column)) if name]
    return frame.with_columns(*map(named, TOKENS)).select(order)


def check_destination(path: Path) -> None:
    """Refuse a path that could not be written, before hours are spent computing.

    Raises:
        UsageError: the ending is neither .parquet nor .ndjson.
        StoreError: there is no such folder, or no file can be made in it.
    """
    if path.suffix not in (".parquet", ".ndjson"):
        raise UsageError(
            f"cannot tell the format of {path}: end its name in .parquet, or .ndjson for JSON lines"
        )
    check_place(path)


def export_atlas(
    layers: Sequence[CachedLayer], path: Path, texts: Sequence[str] | None = None
) -> None:
    """Write the table of `layers`, with token strings if `texts` are given; all of it or nothing.

    It is streamed: memory holds a few pieces at a time. JSON lines do not hold the provenance.
    """
    check_destination(path)
    frame = pl.concat([layer.scan() for layer in layers])
    frame = frame if texts is None else with_tokens(frame, texts)
    if path.suffix == ".parquet":
        write_sealed(frame, path, merged_provenance(layers))
        return
    with replacing_table(path) as temporary:
        frame.sink_ndjson(temporary)


def merged_provenance(layers: Sequence[CachedLayer]) -> dict[str, Any]:
    """The common provenance of layers with the same model, reference and settings."""
    each = [layer.provenance for layer in layers]
    shared = [{k: v for k, v in about.items() if k not in _OF_PIECE} for about in each]
    if any(about != shared[0] for about in shared):
        raise StoreError(
            "the layers were tabulated with different operators or settings: "
            "run `qlens atlas` again for all of them"
        )
    return shared[0] | {"layers": [entry for about in each for entry in about["layers"]]}


def read_atlas(path: Path | str) -> Atlas:
    """A table that `qlens atlas -o` wrote, and its provenance.

    Raises:
        StoreError: it is missing, damaged, from another program, or of another version.
    """
    path = Path(path)
    about = read_about(path)
    if about.get("kind") != "atlas":
        raise DamagedError(f"{path} is not an atlas")
    if about.get("format") != FORMAT:
        raise StoreError(
            f"{path} was written by another version of qlens: write it again with `qlens atlas`"
        )
    return Atlas(
        pl.read_parquet(path.absolute(), glob=False),
        {k: v for k, v in about.items() if k != "sealed_sha256"},
    )


def _listed(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []
