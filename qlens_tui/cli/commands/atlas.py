"""`qlens atlas`: the whole dictionary as a table, in the cache and as a file.

The rows go to the cache piece by piece, so that a run can be stopped at any time and
resumed. The file is written from them at the end, as a whole or not at all.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qlens_tui.cli.exits import InterruptionError
from qlens_tui.cli.options import Command, Layers, open_lens, pass_output, with_common
from qlens_tui.cli.output import Output
from qlens_tui.cli.progress import build_progress
from qlens_tui.formats import counted, duration, in_bytes

if TYPE_CHECKING:
    from rich.table import Table

    from lens_core.atlas.files import CachedLayer
    from lens_core.session import Session

_MEANS = ("value_gain", "key_gain", "value_stability", "key_stability")


@click.command(cls=Command, short_help="Tabulate the whole dictionary.")
@click.argument("config")
@click.option(
    "-o",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where to write the table, a .parquet or .ndjson file; replaces FILE if there is one.  "
    "[default: only to the cache]",
)
@click.option("--layers", type=Layers(), help="Such as 3,5-9.  [default: the config's]")
@click.option("-k", type=click.IntRange(min=1), help="Tokens per list.  [default: the config's]")
@with_common
@pass_output
def atlas(
    output: Output,
    config: str,
    file: Path | None,
    layers: tuple[int, ...] | None,
    k: int | None,
    reference_tokens: Path | None,
    device: str | None,
    dtype: str | None,
    offline: bool,
    as_json: bool,
) -> None:
    """Tabulate every feature of CONFIG's dictionaries: lists, coherence, gain, stability.

    A row has what `qlens show` prints for a feature (the best tokens of each lens on both
    sides, density, strongest contexts) and metrics: coherence, gain of Query Lens, overlap,
    movement, stability. Needs operators (`qlens build`). It can be stopped at any time; run
    it again to resume.

    \b
    Examples:
      qlens atlas smollm2-neurons -o neurons.parquet
      qlens atlas smollm2-neurons --layers 3,5-9 -k 10 -o neurons.ndjson
      qlens atlas gpt2-small-32k --json
    """
    from lens_core.atlas.files import check_destination, export_atlas

    start = time.monotonic()
    if file is not None:
        check_destination(file)
    session = open_lens(
        output, config, offline=offline, layers=layers, k=k, device=device, dtype=dtype,
        reference_tokens=reference_tokens,
    )  # fmt: skip
    found = fill_atlas(output, session, layers)
    if file is not None:
        output.step("writing the table")
        vocabulary = session.lens.vocabulary
        export_atlas(found, file, vocabulary.texts(list(range(vocabulary.d_vocab))))
    seconds = time.monotonic() - start
    if as_json:
        output.document(_document(session, found, file, seconds))
        return
    from rich.text import Text

    parts = [_table(found)]
    rows = sum(each["features"] for each in atlas_summary(found))
    line = f"{counted(rows, 'feature')}, {duration(seconds)}"
    if file is not None:
        line += f", {in_bytes(file.stat().st_size)}"
    output.show(*parts, Text(line), *([Text(output.shown(str(file)))] if file else []))


def fill_atlas(
    output: Output, session: Session, layers: Sequence[int] | None = None, *, hint: str = ""
) -> list[CachedLayer]:
    """Compute the atlas of `layers` (`None`: the config's) into the cache, with progress.

    `hint`: how to tabulate fewer, for commands of which a table is not the purpose.
    """
    from lens_core.atlas.atlas import atlas_fingerprint, atlas_layer
    from lens_core.atlas.files import find_layer

    lens = session.lens
    asked = session.settings.convention, session.settings.final_norm
    if asked != ("paper", "apply"):
        output.note(
            "the atlas always uses convention paper, final norm apply, whatever the config says"
        )
    wanted = list(lens.dictionaries.layers if layers is None else layers)
    for layer in wanted:
        if layer not in lens.dictionaries.layers:
            lens.dictionary(layer)  # its message lists the layers
    missing = [
        layer
        for layer in wanted
        if find_layer(session.cache, atlas_fingerprint(lens, layer)) is None
    ]
    if hint and len(missing) > 1:
        numbers = ", ".join(map(str, missing))
        output.note(f"layers {numbers} have no atlas yet: tabulating them first; {hint}")
    found: list[CachedLayer] = []
    made: dict[int, int] = {}
    with build_progress(output, 0, None, "tabulating", ("feature", "features")) as draw:

        def report(done: int, of: int) -> None:
            made[layer] = done
            # Assumes that layers not started yet are as large as this one.
            later = len(missing) - len(made)
            which = f" ({len(made)} of {len(missing)})" if len(missing) > 1 else ""
            total = sum(made.values()) - done + of * (1 + later)
            draw(sum(made.values()), total, f"tabulating layer {layer}{which}")

        for layer in wanted:
            try:
                found.append(atlas_layer(lens, layer, session.cache, progress=report))
            except KeyboardInterrupt as error:
                raise InterruptionError(
                    f"interrupted: {len(found)} of {counted(len(wanted), 'layer')}, and the pieces "
                    f"of layer {layer} that are done, are kept in {session.cache / 'atlas'}; "
                    "run the same command again to resume"
                ) from error
    return found


def atlas_summary(layers: Sequence[CachedLayer]) -> list[dict[str, Any]]:
    """A summary of each layer; means are over all of its features."""
    import polars as pl

    return [
        layer.scan()
        .select(
            pl.col("layer").first(),
            pl.len().alias("features"),
            pl.col("silent").sum(),
            *(pl.col(name).cast(pl.Float64).mean() for name in _MEANS),
        )
        .collect()
        .row(0, named=True)
        for layer in layers
    ]


def _document(
    session: Session, layers: Sequence[CachedLayer], file: Path | None, seconds: float
) -> dict[str, Any]:
    from lens_core.atlas.files import merged_provenance
    from lens_core.report import session_facts
    from qlens_tui.cli.documents import computed_on

    summary = atlas_summary(layers)
    return {
        "file": None if file is None else str(file),
        "bytes": None if file is None else file.stat().st_size,
        "rows": sum(each["features"] for each in summary),
        "silent": sum(each["silent"] for each in summary),
        "layers": [
            each | {"directory": str(layer.directory)}
            for each, layer in zip(summary, layers, strict=True)
        ],
        **computed_on(session_facts(session)),
        "provenance": merged_provenance(layers),
        "seconds": round(seconds, 3),
    }


def _table(layers: Sequence[CachedLayer]) -> Table:
    from qlens_tui.cli.tables import plain_table
    from qlens_tui.formats import number

    table = plain_table()
    for name in ("layer", "features", "silent"):
        table.add_column(f"\n{name}", justify="right")
    for name in ("value gain", "key gain", "value stab", "key stab"):
        table.add_column(f"mean\n{name}", justify="right", min_width=10)
    for each in atlas_summary(layers):
        means = [each[name] for name in _MEANS]
        table.add_row(
            str(each["layer"]), f"{each['features']:,}", f"{each['silent']:,}",
            *("n/a" if mean is None else number(mean) for mean in means),
        )  # fmt: skip
    return table
