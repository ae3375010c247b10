"""The sections of a configuration, as frozen dataclasses that are always valid.

One file describes one model with one dictionary. Keys, defaults and allowed values are
defined only here. The rules apply however an object is made (file, command line, notebook),
so no other module checks a setting again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, cast, get_args

from lens_core.config.rules import (
    BATCH,
    DEVICE,
    FILE,
    FLAG,
    LAYERS,
    LINE,
    MEMORY,
    ONE_LINE,
    PATH,
    RELEASE_AFTER,
    SEED,
    Rule,
    Section,
    integer,
    is_name,
    one_of,
    setting,
    shown,
)
from lens_core.errors import ConfigError
from lens_core.names import (
    HUB_ID,
    PACKAGE,
    hub_folder,
    is_path,
    is_url,
    on_hub,
    parts_of_package,
)
from lens_core.terms import Projection

SourceKind = Literal["hub", "text", "tokens", "bundled"]
_SOURCES = '"hub:DATASET", "text:FILE", "tokens:FILE.json" or "bundled"'


@dataclass(frozen=True)
class ReferenceSource:
    """Where reference tokens come from: a hub data set, a file, or the bundled text."""

    kind: SourceKind
    location: str  # data set id or file; "" for the bundled text

    @classmethod
    def parse(cls, source: str) -> ReferenceSource:
        kind, colon, location = source.partition(":")
        if source == "bundled":
            return cls("bundled", "")
        grammar = {"hub": HUB_ID, "text": ONE_LINE, "tokens": ONE_LINE}.get(kind)
        fits = colon and grammar is not None and grammar.fullmatch(location) is not None
        if not fits or is_url(location):
            raise ConfigError(f"[reference].source must be {_SOURCES}, got {shown(source)}")
        return cls(cast(SourceKind, kind), location)

    def __str__(self) -> str:
        return f"{self.kind}:{self.location}" if self.location else self.kind


def _is_source(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(ReferenceSource.parse(value))
    except ConfigError:
        return False


def _hub_id(value: object) -> str:
    """The hub id to write instead of the address of a model's page."""
    found = on_hub(value) if isinstance(value, str) else None
    return "" if found is None else f'"{found[0]}"'


def _model(value: object) -> str:
    if not isinstance(value, str) or not is_url(value):
        return ""
    found = on_hub(value)
    if found is None:
        return "the path of a downloaded copy"
    _, revision = found
    at = f" and [model].revision = {shown(revision)}" if revision not in ("", "main") else ""
    return f"{_hub_id(value)}{at}"


def _dataset(value: object) -> str:
    url = value.removeprefix("hub:") if isinstance(value, str) else ""
    found = on_hub(url, dataset=True)
    return "" if found is None else f'"hub:{found[0]}"'


_MODEL = Rule(
    "a Hugging Face id (owner/name), a path (./DIR, /DIR, ~/DIR or FILE.gguf) "
    "or package:PACKAGE/FILE.gguf",
    is_name,
    _model,
)
_RELEASE = Rule("a release of SAELens or a Hugging Face id (owner/name)", is_name, _hub_id)
_TRAINED_ON = Rule("the name of a model", is_name, _hub_id)
_PROJECTION = one_of(*get_args(Projection))
_KIND = one_of("sae", "transcoder", "neurons")
_SOURCE = Rule(_SOURCES, _is_source, _dataset)
_TUNED = Rule(
    'the path of a file or a folder, or "hub:[spaces/]OWNER/NAME[/FOLDER]"',
    lambda v: is_name(v) and (not v.startswith("hub:") or hub_folder(v) is not None),
)
# Minutes; a clock cannot wait longer than `_AGES`.
_IDLE_MINUTES, _AGES = 30, 1e8
_DTYPE = one_of(
    "float32",
    "float64",
    why=" (an average of Jacobians summed in fewer bits reorders the tokens)",
)
KEY_OF_ANOTHER_KIND = (
    '[dictionary].key chooses between the projections of kind = "neurons"; '
    "a {kind} has one encoder: remove it"
)


@dataclass(frozen=True)
class ModelConfig(Section):
    """`name`: a hub id, a path, or package:PACKAGE/FILE.gguf, see `lens_core.names`.

    `revision` is a branch, tag or commit of a hub id.
    """

    section: ClassVar[str] = "model"

    name: str = setting(_MODEL)
    revision: str = setting(LINE, "main")

    def check_together(self) -> None:
        if self.name.startswith(PACKAGE) and parts_of_package(self.name) is None:
            raise ConfigError(f"[model].name must be package:PACKAGE/FILE, got {shown(self.name)}")
        is_hub_id = not is_path(self.name) and not self.name.startswith(PACKAGE)
        if self.revision != "main" and not is_hub_id:
            raise ConfigError(
                f"[model].revision is for hub ids and {shown(self.name)} is none: remove it"
            )


@dataclass(frozen=True)
class DictionaryConfig(Section):
    """Where features come from: a SAELens release, a folder, or the model's own neurons.

    `id` and `path` may contain `{layer}`. `key` is the projection whose columns are the keys of
    gated MLP neurons; the other kinds do not use it.
    """

    section: ClassVar[str] = "dictionary"

    kind: Literal["sae", "transcoder", "neurons"] = setting(_KIND)
    release: str | None = setting(_RELEASE, None)
    id: str | None = setting(LINE, None)
    path: Path | None = setting(PATH, None)  # noqa: RUF009 (a field, as its neighbours are)
    layers: Literal["all"] | tuple[int, ...] = setting(LAYERS, "all")
    trained_on: str | None = setting(_TRAINED_ON, None)
    key: Projection = setting(_PROJECTION, "gate")  # noqa: RUF009 (a field, as its neighbours are)

    def check_together(self) -> None:
        if self.kind == "neurons":
            for name in ("release", "id", "path", "trained_on"):
                if getattr(self, name) is not None:
                    raise ConfigError(
                        f"[dictionary].{name} means nothing for neurons, "
                        "which are the model's own: remove it"
                    )
            return
        if self.release is not None and is_path(self.release):
            raise ConfigError(
                "[dictionary].release must be a release of SAELens or a hub id (owner/name), "
                f"got {shown(self.release)}; a folder is [dictionary].path"
            )
        if self.key != "gate":
            raise ConfigError(KEY_OF_ANOTHER_KIND.format(kind=self.kind))
        if self.path is not None and (self.release is not None or self.id is not None):
            raise ConfigError("[dictionary] has a path besides release and id: keep one of the two")
        if self.path is None and (self.release is None or self.id is None):
            missing = "release and id, or path," if self.release is self.id else "release or id"
            raise ConfigError(f"[dictionary].{missing} is missing for a {self.kind}")
        name, place = ("id", self.id) if self.path is None else ("path", str(self.path))
        pattern = place or ""
        if name == "id" and re.search(r"[{}]", pattern.replace("{layer}", "")):
            raise ConfigError(
                f"[dictionary].id may hold {{layer}} and no other braces, got {shown(pattern)}"
            )
        if self.layers != "all" and len(self.layers) > 1 and "{layer}" not in pattern:
            raise ConfigError(
                f"[dictionary].{name} names one dictionary, [dictionary].layers "
                f"{len(self.layers)} layers: put {{layer}} into {name}"
            )


@dataclass(frozen=True)
class ReferenceConfig(Section):
    """Tokens at which Jacobians are taken: `samples` chunks of `length` tokens.

    Or as many short texts of at most that many tokens, each read at its last one only: `kind`.
    `skip_first` and `skip_last` positions are left out of every average. A
    `tokens:` file has its own number of samples and length; those here are
    then ignored, and the skips are checked when the file is read.
    """

    section: ClassVar[str] = "reference"

    kind: Literal["chunks", "openings", "prompts"] = setting(
        one_of("chunks", "openings", "prompts"), "chunks"
    )
    source: str = setting(_SOURCE, "hub:NeelNanda/pile-10k")
    samples: int = setting(integer(1), 1024)
    length: int = setting(integer(1), 32)
    seed: int = setting(SEED, 42)
    prepend_bos: bool = setting(FLAG, False)
    skip_first: int = setting(integer(0), 0)
    skip_last: int = setting(integer(0), 0)

    @property
    def parsed_source(self) -> ReferenceSource:
        return ReferenceSource.parse(self.source)

    def check_together(self) -> None:
        if self.kind != "chunks":
            self._check_short_texts()
        left_out = self.skip_first + self.skip_last
        if self.parsed_source.kind != "tokens" and left_out >= self.length:
            raise ConfigError(
                f"[reference].skip_first and skip_last leave out {shown(left_out)} positions "
                f"of {shown(self.length)}: at least one must remain"
            )

    def _check_short_texts(self) -> None:
        kind = self.parsed_source.kind
        if kind == "tokens":
            raise ConfigError(
                f'[reference].kind = "{self.kind}" takes a text, and token ids are used as they '
                'are: set kind = "chunks"'
            )
        if self.skip_last:
            raise ConfigError(
                "[reference].skip_last leaves out the last token of short texts, which is the "
                "only one read: set it to 0"
            )


@dataclass(frozen=True)
class LensConfig(Section):
    """How a feature is read: list length, transition, norms (docs/method.md, section 2).

    `tuned` is where Tuned Lens has its parameters: a file or a folder, or one of the hub.
    """

    section: ClassVar[str] = "lens"

    k: int = setting(integer(1), 25)
    transition: Literal["identity", "first-order", "full"] = setting(
        one_of("identity", "first-order", "full"), "full"
    )
    convention: Literal["paper", "exact"] = setting(one_of("paper", "exact"), "paper")
    final_norm: Literal["apply", "linearize"] = setting(one_of("apply", "linearize"), "apply")
    tuned: str | None = setting(_TUNED, None)


@dataclass(frozen=True)
class ExplanationsConfig(Section):
    """What others say about the features; no answer of the lens depends on it.

    `file` is a file or a folder of files, see `qlens_tui.table.explanation_files`.
    """

    section: ClassVar[str] = "explanations"

    file: Path | None = setting(FILE, None)  # noqa: RUF009 (a field, as its neighbours are)


@dataclass(frozen=True)
class ComputeConfig(Section):
    """Where to compute; `batch` is the number of reference samples per pass.

    `memory` is how many GiB of the device the recorded reference may take; "auto": 0.3 of
    what is free.
    `release_after` is after how many idle minutes the app releases the model; "auto": 30 on a
    GPU, never on a CPU.
    """

    section: ClassVar[str] = "compute"

    device: str = setting(DEVICE, "auto")
    dtype: Literal["float32", "float64"] = setting(_DTYPE, "float32")
    batch: Literal["auto"] | int = setting(BATCH, "auto")
    memory: Literal["auto"] | int | float = setting(MEMORY, "auto")
    release_after: Literal["auto", "never"] | int | float = setting(RELEASE_AFTER, "auto")

    @property
    def memory_bytes(self) -> int | None:
        """The budget of the recorded reference; `None`: to be chosen."""
        return None if isinstance(self.memory, str) else int(min(self.memory, 2**30) * 2**30)

    def idle_seconds(self, device: str) -> float | None:
        """Seconds that a model on `device` (such as `cuda:1`) may be idle; `None`: no limit."""
        if isinstance(self.release_after, str):
            kept = self.release_after == "never" or device.startswith("cpu")
            return None if kept else 60.0 * _IDLE_MINUTES
        return 60.0 * min(self.release_after, _AGES)


@dataclass(frozen=True)
class Config:
    """A configuration; `path` is the file it was read from."""

    path: Path
    model: ModelConfig
    dictionary: DictionaryConfig
    reference: ReferenceConfig
    lens: LensConfig
    explanations: ExplanationsConfig
    compute: ComputeConfig


SECTIONS: tuple[type[Section], ...] = (
    ModelConfig,
    DictionaryConfig,
    ReferenceConfig,
    LensConfig,
    ExplanationsConfig,
    ComputeConfig,
)
