"""The table of scores: a row for each layer, side, lens, kind of score, protocol and length.

As data, with its forms: a polars frame, JSON documents, Markdown and CSV. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import polars as pl

from lens_core.scores.intervals import Estimate
from lens_core.terms import Side

Kind = Literal["input", "output", "fidelity"]
"""Whether a list names what activates a feature (input) or what it promotes (output); or how far
it depends on the reference (`lens_core.scores.fidelity`)."""

SCHEMA = {
    "layer": pl.Int64, "side": pl.String, "lens": pl.String, "score": pl.String,
    "protocol": pl.String, "k": pl.Int64, "n": pl.Int64, "left_out": pl.Int64,
    "mean": pl.Float64, "low": pl.Float64, "high": pl.Float64, "ceiling": pl.Float64,
    "share": pl.Float64,
}  # fmt: skip


@dataclass(frozen=True)
class ScoreRow:
    """One score of one lens, in [0, 1].

    `layer` of `None` is the mean over layers. `n` features have a score and `left_out` have none.
    `low` and `high` are the 95% interval. `ceiling` is what no list can be expected to beat
    (docs/method.md, section 5a), for the same features; fidelity has none. A variance has no `k`.
    """

    layer: int | None
    side: Side
    lens: str
    score: Kind
    protocol: str
    k: int | None
    n: int
    left_out: int
    mean: float
    low: float
    high: float
    ceiling: float

    @classmethod
    def of(
        cls,
        layer: int | None,
        side: Side,
        lens: str,
        score: Kind,
        protocol: str,
        k: int | None,
        estimate: Estimate,
        left_out: int,
        ceiling: float,
    ) -> ScoreRow:
        """A row from an estimate."""
        return cls(
            layer, side, lens, score, protocol, k, estimate.n, left_out, estimate.mean,
            estimate.low, estimate.high, ceiling,
        )  # fmt: skip

    @property
    def share(self) -> float:
        """The score as a part of its ceiling; NaN where that is 0 or unknown."""
        return self.mean / self.ceiling if self.ceiling > 0 else math.nan

    def document(self) -> dict[str, Any]:
        """The row for JSON."""
        return asdict(self) | {"share": self.share}


def frame(rows: Iterable[ScoreRow]) -> pl.DataFrame:
    """The rows as a polars frame, missing numbers as null."""
    found = pl.DataFrame([row.document() for row in rows], schema=SCHEMA)
    return found.with_columns(pl.col(pl.Float64).fill_nan(None))


def columns(rows: Sequence[ScoreRow]) -> list[tuple[Kind, str, int | None]]:
    """What the rows are about, in their order: kind of score, protocol, length."""
    return list(dict.fromkeys((row.score, row.protocol, row.k) for row in rows))


def lines(rows: Sequence[ScoreRow]) -> list[tuple[int | None, Side, str]]:
    """Whom the rows are about, in their order: layer, side, lens."""
    return list(dict.fromkeys((row.layer, row.side, row.lens) for row in rows))


def cell(row: ScoreRow | None) -> str:
    """`48.1 ± 0.6 (80)`: percent, half the interval, percent of the ceiling."""
    if row is None or math.isnan(row.mean):
        return "none"
    error = max(row.high - row.mean, row.mean - row.low)
    spread = "" if math.isnan(error) else f" ± {100 * error:.1f}"
    share = "" if math.isnan(row.share) else f" ({100 * row.share:.0f})"
    return f"{100 * row.mean:.1f}{spread}{share}"


def paper_layout(rows: Sequence[ScoreRow]) -> tuple[list[str], list[list[str]]]:
    """Head and lines of a table like the paper's: lenses down, scores across, ceilings last."""
    across = columns(rows)
    head = ["layer", "lens"]
    for score, protocol, k in across:
        head.append(f"{score} {protocol}" + ("" if k is None else f" k={k}"))
    table = {
        (row.layer, row.side, row.lens, row.score, row.protocol, row.k): row for row in rows
    }  # fmt: skip
    body: list[list[str]] = []
    for layer in dict.fromkeys(row.layer for row in rows):
        named = "all" if layer is None else str(layer)
        for of, side, lens in lines(rows):
            if of == layer:
                cells = [cell(table.get((layer, side, lens, *column))) for column in across]
                body.append([named, f"{lens} {side}", *cells])
        if all(row.score == "fidelity" for row in rows):
            continue
        ceilings = [
            next(
                (
                    f"{100 * row.ceiling:.1f}"
                    for row in rows
                    if row.layer == layer
                    and (row.score, row.protocol, row.k) == column
                    and not math.isnan(row.ceiling)
                ),
                "none",
            )
            for column in across
        ]
        body.append([named, "ceiling", *ceilings])
    return head, body


def markdown(rows: Sequence[ScoreRow]) -> str:
    """The paper's layout in Markdown."""
    head, body = paper_layout(rows)
    rule = ["---:" if at == 0 else "---" if at == 1 else "---:" for at in range(len(head))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *body)) + "\n"
