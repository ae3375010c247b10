"""Whether the configuration's file of explanations can be read, and belongs to its features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from lens_core.errors import LensError
from qlens_tui.doctor.machine import Finding
from qlens_tui.doctor.model import Shape, broken
from qlens_tui.formats import counted

if TYPE_CHECKING:
    from lens_core.config import Config

_ABOUT = "explanations"


def examine_explanations(config: Config, shape: Shape | None) -> Iterator[Finding]:
    """What was read, what was left out, and what is of features that do not exist.

    How many features a layer has is only compared where its files say so.
    """
    file = config.explanations.file
    if file is None:
        return
    from qlens_tui.table.explanation_files import read_explanations

    try:
        found = read_explanations(file)
    except LensError as error:
        yield broken(_ABOUT, error, "check [explanations].file")
        return
    yield Finding(_ABOUT, "ok", f"{file}, {counted(found.records.height, 'explanation')}")
    if found.refused:
        said = f"{counted(found.refused, 'line')} left out: {found.why}"
        yield Finding(_ABOUT, "note", said, f"correct {file.name}")
    lost = _lost(config, shape, found.records.select("layer", "feature").rows())
    if lost:
        layer, feature = lost[0]
        yield Finding(
            _ABOUT, "note",
            f"{counted(len(lost), 'explanation')} of features that the dictionary does not have, "
            f"such as {layer}:{feature}",
            "check [explanations].file and [dictionary]",
        )  # fmt: skip


def _lost(
    config: Config, shape: Shape | None, features: Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
    """The features that are not in the dictionary; none if that cannot be known here."""
    from lens_core.dictionaries.formats import available_layers, features_without_loading

    if shape is None:
        return []
    try:
        layers = available_layers(config.dictionary, shape.n_layers)
    except LensError:
        return []  # a finding about the dictionary
    counts = {layer: features_without_loading(config.dictionary, layer) for layer in layers}
    return [
        (layer, feature)
        for layer, feature in features
        if layer not in counts or feature >= (counts[layer] or feature + 1)
    ]
