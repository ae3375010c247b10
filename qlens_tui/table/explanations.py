"""Which explanations of a file belong to the features of this dictionary.

A record with Neuronpedia's name of a dictionary belongs to the one whose metadata has that name
(`KnownLayer.neuronpedia`). If the metadata has none, the records of one source are taken, as they
cannot be checked, and those of several are not. A feature with several explanations has all of
them, in the order of the file, joined by " | ": which is best, the reader decides.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import chain

import polars as pl

from qlens_tui.formats import counted
from qlens_tui.table.column_names import EXPLANATION
from qlens_tui.table.explanation_files import Found
from qlens_tui.table.known_layer import KnownLayer

NO_EXPLANATIONS = "there are no explanations: name a file of them in [explanations].file"
BETWEEN = " | "
_NAMED = 3  # sources named in a message


class Explanations:
    """The explanations of a file, by layer and feature."""

    def __init__(self, found: Found) -> None:
        self._found = found
        parts = found.records.partition_by("layer", as_dict=True, include_key=False)
        self._records = {int(str(layer)): part for (layer,), part in parts.items()}
        self._columns: dict[KnownLayer, pl.Series] = {}

    def column(self, known: KnownLayer) -> pl.Series:
        """The explanation of every feature of a layer, empty for those without one."""
        column = self._columns.get(known)
        if column is None:
            column = self._columns[known] = self._column(known)
        return column

    def of(self, known: KnownLayer, feature: int) -> str:
        """The explanation of one feature; empty if it has none."""
        return str(self.column(known)[feature]) if feature < known.n_features else ""

    def frame(self, layers: Iterable[KnownLayer]) -> pl.DataFrame:
        """Layer, feature and explanation of the features of these layers that have one."""
        schema = {"layer": pl.Int32, "feature": pl.Int32, EXPLANATION: pl.String}
        parts = [pl.DataFrame(schema=schema)]
        for known in layers:
            column = self.column(known)
            there = (column != "").arg_true()
            layer = pl.lit(known.layer, pl.Int32).alias("layer")
            part = pl.DataFrame({"feature": there.cast(pl.Int32), EXPLANATION: column[there]})
            parts.append(part.select(layer, "feature", EXPLANATION))
        return pl.concat(parts)

    def remarks(self, known: Mapping[int, KnownLayer], layers: Collection[int]) -> list[str]:
        """What was left out and why, and what cannot be checked, each in a few words.

        `layers` are those of the configuration; of those that are not `known` nothing is said.
        """
        found, said = self._found, []
        if found.refused:
            said.append(f"{counted(found.refused, 'line')} left out: {found.why}")
        unknown = 0
        example, foreign, unsure = "", dict[str, tuple[int, KnownLayer]](), set[str]()
        for layer, records in sorted(self._records.items()):
            described = known.get(layer)
            if described is None and layer in layers:
                continue
            there = 0 if described is None else described.n_features
            outside = records.filter(pl.col("feature") >= there)
            if outside.height:
                unknown += outside.height
                example = example or f"{layer}:{outside['feature'][0]}"
            if described is not None:
                wrong = _foreign(records, described)
                for source, count in records["source"].value_counts().iter_rows():
                    if source in wrong:
                        foreign[source] = count, described
                if described.neuronpedia is None:
                    unsure |= {*records["source"].unique()} - wrong - {""}
        if unknown:
            said.append(
                f"{counted(unknown, 'explanation')} left out, of features that the dictionary "
                f"does not have, such as {example}"
            )
        said += _of_others(foreign)
        if unsure:
            said.append(
                f"cannot tell whether {_some(sorted(unsure))} is this dictionary: "
                "its metadata does not say"
            )
        return said

    def _column(self, known: KnownLayer) -> pl.Series:
        texts = pl.repeat("", known.n_features, dtype=pl.String, eager=True)
        records = self._records.get(known.layer)
        if records is not None:
            ours = records.filter(
                pl.col("feature") < known.n_features,
                ~pl.col("source").is_in(sorted(_foreign(records, known))),
            ).unique(["feature", "text"], maintain_order=True, keep="first")
            joined = ours.group_by("feature").agg(pl.col("text").str.join(BETWEEN))
            texts = texts.scatter(joined["feature"].cast(pl.UInt32), joined["text"])
        return texts.alias(EXPLANATION)


def _foreign(records: pl.DataFrame, known: KnownLayer) -> set[str]:
    """The sources of a layer's records that are not, or may not be, its dictionary."""
    sources = {*records["source"].unique().to_list()} - {""}
    if known.neuronpedia is None:
        return sources if len(sources) > 1 else set()
    return {each for each in sources if not _same(each, known.neuronpedia)}


def _same(source: str, name: str) -> bool:
    """Whether a source, of which a part may not be given, has the name of a dictionary."""
    parts = zip(source.casefold().split("/", 1), name.casefold().split("/", 1), strict=True)
    return all(given in ("", known) for given, known in parts)


def _of_others(foreign: Mapping[str, tuple[int, KnownLayer]]) -> list[str]:
    named = {s: each for s, each in foreign.items() if each[1].neuronpedia is not None}
    said = []
    for sources, why in (
        (named, "layer {layer} is {name}"),
        ({s: each for s, each in foreign.items() if s not in named},
         "the metadata of layer {layer} does not say which it is"),
    ):  # fmt: skip
        if sources:
            total = sum(count for count, _ in sources.values())
            layer = next(iter(sources.values()))[1]
            said.append(
                f"{counted(total, 'explanation')} left out, of {_some(list(sources))}: "
                + why.format(layer=layer.layer, name=layer.neuronpedia)
            )
    return said


def _some(names: list[str]) -> str:
    more = [f"{len(names) - _NAMED} more"] if len(names) > _NAMED else []
    return ", ".join(chain(names[:_NAMED], more))
