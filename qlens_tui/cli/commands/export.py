"""`qlens export`: the marked features, or those that match a filter, as a file."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qlens_tui.cli.commands.atlas import fill_atlas
from qlens_tui.cli.explaining import explanations_of
from qlens_tui.cli.options import (
    Command,
    Layers,
    open_lens,
    pass_output,
    with_common,
    with_explanations,
)
from qlens_tui.cli.output import Output
from qlens_tui.formats import counted, in_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

    from lens_core.session import Session


@click.command(cls=Command, short_help="Write marked or filtered features to a file.")
@click.argument("config")
@click.option(
    "-o",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    required=True,
    help="A .csv, .parquet or .ndjson file; replaces FILE if there is one.",
)
@click.option("--starred", is_flag=True, help="The starred features.")
@click.option(
    "--tag", "tags", multiple=True, metavar="TAG", help="The features with a tag; may be repeated."
)
@click.option(
    "--where",
    metavar="FILTER",
    help="The features that match: words in Query Lens's lists, or SQL over the columns.",
)
@click.option("--layers", type=Layers(), help="Such as 3,5-9.  [default: the config's]")
@click.option(
    "--raw", is_flag=True, help="Do not escape CSV text that a spreadsheet would run as a formula."
)
@click.option(
    "--bom", is_flag=True, help="Start CSV with a byte order mark, so that Excel reads it as UTF-8."
)
@with_explanations
@with_common
@pass_output
def export(
    output: Output,
    config: str,
    file: Path,
    starred: bool,
    tags: tuple[str, ...],
    where: str | None,
    layers: tuple[int, ...] | None,
    raw: bool,
    bom: bool,
    explanations: Path | None,
    reference_tokens: Path | None,
    device: str | None,
    dtype: str | None,
    offline: bool,
    as_json: bool,
) -> None:
    """Write features of CONFIG with their marks, token lists, metrics and provenance.

    Without --starred, --tag or --where: all that are starred, tagged, rejected or have a
    label or note. The columns are those of `qlens atlas`, and star, reject, label, tags,
    note and explanation; and fidelity, where the result cache has what a feature raises (`qlens
    score --score output`, `qlens show --observed`). Layers that have no atlas yet are tabulated
    first (`qlens atlas`), except those in which no feature can be selected: the others than
    --layers, and those that marks, tag:, label:, note: or SQL such as "layer = 10 and gain k > 0.2"
    leave out.

    \b
    Examples:
      qlens export smollm2-neurons -o marked.csv
      qlens export smollm2-neurons --tag food --tag cooking -o food.parquet
      qlens export smollm2-neurons --where "star and gain k > 0.2" -o good.csv
      qlens export smollm2-neurons --where kiln --layers 6-9 -o kiln.ndjson
      qlens export smollm2-neurons --where "tag:food key:bread" -o bread.csv
      qlens export smollm2-neurons --where "label:body" -o body.csv
      qlens export my.toml --where "explanation:war" --explanations said.csv -o war.csv
    """
    from qlens_tui.export.write import check_destination
    from qlens_tui.export.write import export as write
    from qlens_tui.table.column_names import EXPLANATION
    from qlens_tui.table.filter_layers import layers_that_may_match
    from qlens_tui.triage.backups import why_missing
    from qlens_tui.triage.database import triage_path
    from qlens_tui.triage.marks import tag_name
    from qlens_tui.triage.triage import Triage, marks_frame

    if starred + bool(tags) + (where is not None) > 1:
        raise click.UsageError("give only one of --starred, --tag and --where")
    check_destination(file)
    names = [tag_name(tag) for tag in tags]
    columns = None if where is None else _columns(where)
    # Do not create a triage file if there is none.
    path = triage_path()
    with Triage() if path.exists() or why_missing(path) else nullcontext() as triage:
        if triage is not None and triage.warning:
            output.note(f"warning: {triage.warning}")
        session = open_lens(
            output, config, offline=offline, layers=layers, device=device, dtype=dtype,
            reference_tokens=reference_tokens, explanations=explanations,
        )  # fmt: skip
        lens = session.lens
        every = tuple(lens.dictionaries.layers if layers is None else layers)
        dictionaries = {layer: lens.dictionary(layer) for layer in every}
        marks = marks_frame(triage, {layer: each.sha256 for layer, each in dictionaries.items()})
        marks = marks.sort("layer", "feature")
    import polars as pl

    from lens_core.atlas.files import merged_provenance

    explained = _explained(output, session, every)
    if where is not None:
        n_features = {layer: each.n_features for layer, each in dictionaries.items()}
        looked_at = layers_that_may_match(where, n_features, marks, explained)
    else:
        rows = _marked(marks, names, starred=starred)
        looked_at = tuple(layer for layer in every if layer in set(rows["layer"]))
    # An empty table has columns and a provenance too.
    found = fill_atlas(output, session, looked_at or every[:1], hint="--layers chooses fewer")
    provenance = merged_provenance(found)
    atlas = pl.concat([layer.scan() for layer in found])
    texts = lens.vocabulary.texts(list(range(lens.vocabulary.d_vocab)))
    if where is not None and columns is not None:
        table = atlas.select(columns).collect()
        if explained is not None:
            table = table.join(explained, on=["layer", "feature"], how="left").with_columns(
                pl.col(EXPLANATION).fill_null("")
            )
        rows = _filtered(table, marks, where, texts)
    if rows.is_empty():
        output.note("no feature is selected: the table is empty")
    output.step("writing the table")
    warnings = write(
        rows, file, atlas=atlas, marks=marks, explanations=explained,
        observed=_observed(session, rows, atlas), texts=texts, provenance=provenance, raw=raw,
        bom=bom,
    )  # fmt: skip
    for warning in warnings:
        output.note(f"warning: {warning}")
    size = file.stat().st_size
    if as_json:
        document: dict[str, Any] = {
            "file": str(file),
            "bytes": size,
            "rows": rows.height,
            "layers": sorted(every),
            "provenance": provenance,
        }
        output.document(document)
        return
    from rich.text import Text

    lines = (f"{counted(rows.height, 'feature')}, {in_bytes(size)}", output.shown(str(file)))
    output.show(*map(Text, lines))


def _observed(session: Session, rows: pl.DataFrame, atlas: pl.LazyFrame) -> pl.DataFrame | None:
    """How much of what the selected features raise is in their value lists, where it is known."""
    import polars as pl

    from lens_core.steered_report import known_fidelity

    keys = ["layer", "feature"]
    wanted = rows.lazy().select(pl.col(keys).cast(pl.Int32))
    lists = atlas.select(*keys, "value_query_ids").join(wanted, on=keys, how="semi").collect()
    found = [
        known_fidelity(
            session, int(layer), of["feature"].to_list(), of["value_query_ids"].to_list()
        )
        for (layer,), of in lists.group_by("layer", maintain_order=True)
    ]
    return pl.concat(found) if found else None


def _explained(output: Output, session: Session, layers: Sequence[int]) -> pl.DataFrame | None:
    """The explanations of these layers' features; `None` if the configuration names no file."""
    if session.config.explanations.file is None:
        return None
    from lens_core.report import layer_facts
    from qlens_tui.table.known_layer import KnownLayer

    facts = [layer_facts(session, layer) for layer in layers]
    explanations = explanations_of(output, session, facts)
    return None if explanations is None else explanations.frame(map(KnownLayer.of, facts))


def _marked(marks: pl.DataFrame, tags: Sequence[str], *, starred: bool) -> pl.DataFrame:
    """The marked features: all, the starred ones, or those with one of some tags."""
    import polars as pl

    if starred:
        return marks.filter("star")
    if tags:
        return marks.filter(pl.col("tags").list.eval(pl.element().is_in(tags)).list.any())
    return marks


def _columns(where: str) -> list[str]:
    """The columns of the atlas that a filter needs; an invalid filter is refused at once."""
    from qlens_tui.table.column_names import EXPLANATION, MARKED
    from qlens_tui.table.filter_sql import read_filter
    from qlens_tui.table.rows import KNOWN, MARKS

    needed = read_filter(where, KNOWN).columns
    return [
        "layer",
        "feature",
        *sorted({*needed} - {"layer", "feature", EXPLANATION, MARKED, *MARKS}),
    ]


def _filtered(
    atlas: pl.DataFrame, marks: pl.DataFrame, where: str, texts: Sequence[str]
) -> pl.DataFrame:
    from qlens_tui.table.rows import all_rows, filtered, with_marks

    return filtered(all_rows(with_marks(atlas, marks)), where, texts).taken()
