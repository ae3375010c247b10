"""A folder in which the app can be opened: a config, a saved position, and an atlas of any length.

Made up, in the real formats: sealed pieces of 1,024 features with all columns, lists of 25
tokens of a vocabulary of GPT-2's size. The pieces differ only in the features' numbers. There is no
model: what is measured happens before the engine would have loaded one, or with made-up answers
(`stand_in`). No torch here, because the measured process has none.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lens_core.atlas.files import SCHEMA, piece_name, write_piece
from lens_core.directories import ATLAS
from qlens_tui.app.last_visit import KnownLayer, LastVisit, remember

TOKENS, CONTEXTS, VOCABULARY, PIECE = 25, 5, 50_257, 1024
_SYLLABLES = "ka lo mi ser ton ber ing qua zel dor vin ash pre ul".split()  # noqa: SIM905
_CONFIG = """\
[model]
name = "./model"
[dictionary]
kind = "neurons"
"""


def vocabulary() -> list[str]:
    """As many token strings as GPT-2 has, three in four with a leading space."""
    lengths = (itertools.product(_SYLLABLES, repeat=n) for n in (1, 2, 3, 4, 5))
    words = map("".join, itertools.islice(itertools.chain(*lengths), VOCABULARY))
    return [word if i % 4 == 0 else f" {word}" for i, word in enumerate(words)]


def atlas_piece(rows: int = PIECE) -> pl.DataFrame:
    """An atlas's first rows, random."""
    random = np.random.default_rng(0)

    def column(name: str, kind: Any) -> pl.Series:
        length = CONTEXTS if name.startswith("context") else TOKENS
        if kind == pl.List(pl.Int32):
            ids = random.integers(0, VOCABULARY, (rows, length), dtype=np.int32)
            return pl.Series(ids).arr.to_list()
        if kind == pl.List(pl.Float32):
            falling = -np.sort(-random.uniform(1, 9, (rows, length)).astype(np.float32), axis=1)
            return pl.Series(falling).arr.to_list()
        if kind == pl.Boolean:
            return pl.Series(random.random(rows) < 0.05)
        return pl.Series(random.random(rows).astype(np.float32))

    made = {name: column(name, kind) for name, kind in SCHEMA.items()}
    number = pl.int_range(rows, dtype=pl.Int32, eager=True)
    return pl.DataFrame(made | {"layer": number * 0, "feature": number}, schema=dict(SCHEMA))


@dataclass(frozen=True)
class Workplace:
    """The app's files below `folder`; `environment` points a process to them."""

    folder: Path

    @property
    def environment(self) -> Mapping[str, str]:
        names = {"CACHE": "cache", "STATE": "state", "DATA": "data"}
        return {f"QLENS_{name}_DIR": str(self.folder / at) for name, at in names.items()}

    @property
    def config(self) -> Path:
        path = self.folder / "tiny.toml"
        path.write_text(_CONFIG, "utf-8")
        return path

    def atlas(self, features: int) -> KnownLayer:
        """A tabulated layer with this many features."""
        fingerprint = f"{features:064d}"
        directory = self.folder / "cache" / ATLAS / fingerprint
        directory.mkdir(parents=True)
        about = {"layers": [{"layer": 0, "atlas": fingerprint}]}
        rows = atlas_piece()
        for start in range(0, features, PIECE):
            part = range(start, min(start + PIECE, features))
            number = pl.int_range(part.start, part.stop, dtype=pl.Int32, eager=True)
            piece = rows.head(len(part)).with_columns(number.alias("feature"))
            write_piece(piece, directory / piece_name(part, features), about)
        return KnownLayer(0, f"made-up-{features}", "made up", features, str(directory))

    def visited(self, known: KnownLayer) -> None:
        """The saved visit, in the middle of this layer."""
        os.environ.update(self.environment)
        place = LastVisit(
            layer=0, feature=known.n_features // 2, model="made up", tokens=1024, known=(known,)
        )
        assert remember(self.config, place)
