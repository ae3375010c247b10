"""Where the user was in a configuration, so that the app opens there again.

One small JSON file per configuration in the user's state directory (`lens_core.directories`). It
holds no results: layer, feature, sort, filters, panes, and what the app last knew about the model
and its dictionaries, so that a table with marks and atlas is shown before the engine has started.
A file that cannot be read is ignored: the app then starts at the first feature. If two sessions
use one configuration, the position of the one that moved last is kept.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

from lens_core.directories import state_dir
from lens_core.errors import StoreError
from lens_core.lenses import LENSES
from lens_core.storage.files import write_text_atomically
from lens_core.terms import Switch
from qlens_tui.app.views import Listed
from qlens_tui.engine.messages import OperatorSource
from qlens_tui.table.known_layer import KnownLayer
from qlens_tui.table.sort_key import SortKey

FORMAT = 1
_LENSES = {lens.name for lens in LENSES}
_VOCABULARY = ".vocabulary.json"


@dataclass(frozen=True)
class LastVisit:
    """A position in the app; the defaults are those of a first visit."""

    layer: int | None = None
    feature: int | None = None
    everywhere: bool = False
    sort: tuple[SortKey, ...] = ()
    filter: str = ""
    filters: tuple[str, ...] = ()
    transition: str | None = None
    off: tuple[Switch, ...] = ()
    convention: str = "paper"
    final_norm: str = "apply"
    tab: str = "key"
    pane: str = "table"
    ids: bool = False
    bottom: bool = False
    lenses: tuple[str, ...] | None = None
    length: int | None = None
    against_all_on: bool = True
    moves_on: bool = False
    block: int | None = None
    listed: Listed | None = None
    pinned: tuple[int, int] | None = None
    theme: str | None = None
    model: str = ""
    tokens: int = 0
    known: tuple[KnownLayer, ...] = field(default=())


def state_file(config: Path, ending: str = ".json") -> Path:
    """The file in which the state of a configuration is saved, of one kind by its ending."""
    name = hashlib.sha256(os.fsencode(os.path.realpath(config))).hexdigest()[:24]
    return state_dir() / f"{name}{ending}"


def recall(config: Path) -> LastVisit:
    """Where the user was in `config`; the defaults if unknown."""
    try:
        found = json.loads(state_file(config).read_text("utf-8"))
        if found.pop("format") != FORMAT:
            return LastVisit()
        known = tuple(KnownLayer(**layer) for layer in found.pop("known", ()))
        names = {f.name: f for f in fields(LastVisit)}
        kept = {name: value for name, value in found.items() if name in names}
        kept["sort"] = _sort_keys(found)
        filters = kept.get("filters", [])
        kept["filters"] = tuple(filters) if isinstance(filters, list) else None
        kept["off"] = tuple(map(_switch, kept.get("off", ())))
        kept["listed"] = _listed(kept.get("listed"))
        kept["pinned"] = _feature(kept.get("pinned"))
        # Another version may have saved lenses, or names of lenses, that this one does not have.
        lenses = tuple(kept.get("lenses") or ())
        kept["lenses"] = lenses if lenses and set(lenses) <= _LENSES else None
        place = LastVisit(**kept, known=known)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return LastVisit()
    return place if _sane(place) else LastVisit()


def _sort_keys(found: Any) -> tuple[SortKey, ...]:
    """The saved order; an earlier version saved one column, and beside it its direction."""
    saved = found.get("sort") or []
    if isinstance(saved, str):
        saved = [[saved, found.get("descending", False)]]
    if isinstance(saved, list):
        keys = tuple(SortKey(column, descending) for column, descending in saved)
        if all(type(key.column) is str and type(key.descending) is bool for key in keys):
            return keys
    raise ValueError(f"{saved!r} is no order")


def _listed(saved: Any) -> Listed | None:
    """The saved results that the table showed; `None`: all features. Others are a `ValueError`."""
    if saved is None:
        return None
    match saved:
        case {"words": str(words), "features": list(features)} if features:
            found = tuple((layer, feature) for layer, feature in features)
            if all(type(each) is int and each >= 0 for pair in found for each in pair):
                return Listed(words, found)
    raise ValueError(f"{saved!r} is no list of features")


def _feature(saved: Any) -> tuple[int, int] | None:
    """The saved feature, if there is one; what is none is a `ValueError`."""
    match saved:
        case None:
            return None
        case [int(layer), int(feature)] if min(layer, feature) >= 0:
            return layer, feature
    raise ValueError(f"{saved!r} is not a feature")


def _switch(saved: Any) -> Switch:
    """A block, or a head as its block and number; negative or other numbers are a `ValueError`."""
    numbers = saved if isinstance(saved, list) else [saved]
    if all(type(each) is int and each >= 0 for each in numbers):
        match saved:
            case int():
                return saved
            case [block, head]:
                return block, head
    raise ValueError(f"{saved!r} is not a switch")


def _sane(place: LastVisit) -> bool:
    def natural(value: object) -> bool:
        return value is None or (type(value) is int and value >= 0)

    flags = (place.ids, place.bottom, place.everywhere, place.against_all_on, place.moves_on)
    if place.transition not in (None, "identity", "first-order", "full") or place.tokens is None:
        return False
    if place.convention not in ("paper", "exact") or place.final_norm not in ("apply", "linearize"):
        return False
    if place.filters is None:
        return False
    words = (place.filter, *place.filters, place.tab, place.pane, place.model)
    optional = (place.transition, place.theme)
    return (
        all(map(natural, (place.layer, place.feature, place.length, place.tokens, place.block)))
        and all(isinstance(flag, bool) for flag in flags)
        and all(isinstance(word, str) for word in words)
        and all(word is None or isinstance(word, str) for word in optional)
        and all(
            type(k.layer) is int
            and type(k.n_features) is int
            and 0 <= k.n_features < 1 << 31
            and all(isinstance(text, str) for text in (k.sha256, k.name))
            and all(text is None or isinstance(text, str) for text in (k.atlas, k.neuronpedia))
            and k.operators in get_args(OperatorSource)
            for k in place.known
        )
    )


def remember(config: Path, place: LastVisit) -> bool:
    """Save `place` for the next start; False if it cannot be written, which loses no work."""
    document: dict[str, Any] = {"format": FORMAT, "config": str(config), **asdict(place)}
    try:
        write_text_atomically(state_file(config), json.dumps(document, indent=1) + "\n")
    except (StoreError, OSError):
        return False
    return True


def keep_vocabulary(config: Path, tokens: Sequence[str]) -> None:
    """Save all token strings for the next start, for use before the model is loaded."""
    with suppress(StoreError, OSError):
        write_text_atomically(state_file(config, _VOCABULARY), json.dumps({"tokens": list(tokens)}))


def saved_vocabulary(config: Path) -> list[str]:
    """The token strings that were saved last; empty if they cannot be read."""
    try:
        tokens = json.loads(state_file(config, _VOCABULARY).read_text("utf-8"))["tokens"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [token for token in tokens if isinstance(token, str)]
