"""What a TOML configuration may say, read into frozen dataclasses that are always valid.

One file describes one model with one dictionary. This is the only place that
knows the keys, their defaults and what they allow: each rule stands beside its
field and holds however the object was made (file, command line, notebook), so
that nothing downstream checks a setting again. A mistake is one `ConfigError`
that names the key, what it got and what is allowed. Importing this is cheap.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, cast

from lens_core.errors import ConfigError

# A configuration is a page of text; a weights file given by mistake must not be parsed as one.
MAX_BYTES = 1 << 20

SourceKind = Literal["hub", "text", "tokens", "bundled"]
_DATASET = re.compile(r"[a-zA-Z0-9][\w.-]*(/[\w.-]+)?", re.ASCII)
_ONE_LINE = re.compile(r"(?=.*[^ ])[^\x00-\x1f\x7f]+")
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
        grammar = {"hub": _DATASET, "text": _ONE_LINE, "tokens": _ONE_LINE}.get(kind)
        if not colon or grammar is None or grammar.fullmatch(location) is None:
            raise ConfigError(f"[reference].source must be {_SOURCES}, got {_shown(source)}")
        return cls(cast(SourceKind, kind), location)

    def __str__(self) -> str:
        return f"{self.kind}:{self.location}" if self.location else self.kind


@dataclass(frozen=True)
class _Rule:
    allowed: str
    accepts: Callable[[Any], bool]


def _setting(rule: _Rule, default: Any = MISSING) -> Any:
    return field(default=default, metadata={"rule": rule})


def _integer(minimum: int) -> _Rule:
    # `type(...) is int`: true and false are integers to Python, not to a reader of TOML.
    return _Rule(f"an integer of at least {minimum}", lambda v: type(v) is int and v >= minimum)


def _one_of(*choices: str, why: str = "") -> _Rule:
    quoted = [f'"{choice}"' for choice in choices]
    allowed = " or ".join([", ".join(quoted[:-1]), quoted[-1]])
    return _Rule(allowed + why, lambda v: isinstance(v, str) and v in choices)


def _is_source(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(ReferenceSource.parse(value))
    except ConfigError:
        return False


def _is_layers(value: object) -> bool:
    if not isinstance(value, tuple):
        return isinstance(value, str) and value == "all"
    valid = all(type(layer) is int and layer >= 0 for layer in value)
    return valid and 0 < len(value) == len(set(value))


def _is_line(value: object) -> bool:
    return isinstance(value, str) and _ONE_LINE.fullmatch(value) is not None


_LINE = _Rule("a non-empty string on one line", _is_line)
_MODEL = _Rule("a Hugging Face id, a local directory or package:PACKAGE/FILE.gguf", _is_line)
_KIND = _one_of("sae", "transcoder", "neurons")
_PACKAGE = "package:"
_PATH = _Rule("a path or package:PACKAGE/FOLDER", lambda v: isinstance(v, Path) or _is_line(v))
_LAYERS = _Rule('"all" or a list of distinct layer numbers, at least one', _is_layers)
_SOURCE = _Rule(_SOURCES, _is_source)
_FLAG = _Rule("true or false", lambda v: isinstance(v, bool))
_SEED = _Rule("an integer from 0 to 2^63 - 1", lambda v: type(v) is int and 0 <= v < 1 << 63)
_BATCH = _Rule(
    '"auto" or an integer of at least 1',
    lambda v: v == "auto" if isinstance(v, str) else type(v) is int and v >= 1,
)
_RELEASE = _Rule(
    '"auto", "never" or a number of minutes above 0',
    lambda v: (
        v in ("auto", "never")
        if isinstance(v, str)
        else type(v) in (int, float) and 0 < v < float("inf")
    ),
)
# Minutes; more than `_AGES` no clock takes.
_IDLE_MINUTES, _AGES = 30, 1e8
_DEVICE = _Rule(
    '"auto", "cpu", "mps", "cuda" or "cuda:N"',
    lambda v: (
        isinstance(v, str) and re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,3})?", v) is not None
    ),
)
_DTYPE = _one_of(
    "float32",
    "float64",
    why=" (an average of Jacobians summed in fewer bits reorders the tokens)",
)
_KEY_OF_ANOTHER_KIND = (
    '[dictionary].key chooses between the projections of kind = "neurons"; '
    "a {kind} has one encoder: remove it"
)


class _Section:
    """A table of the file; checks its own rules on construction."""

    section: ClassVar[str]

    def __post_init__(self) -> None:
        for f in fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            if value is not None or f.default is not None:
                _check(self.section, f.name, value, f.metadata["rule"])
        self.check_together()

    def check_together(self) -> None:
        """Raise where keys that are fine one by one contradict each other."""


@dataclass(frozen=True)
class ModelConfig(_Section):
    """`name`: a Hugging Face id, a local directory, or package:PACKAGE/FILE.gguf."""

    section: ClassVar[str] = "model"

    name: str = _setting(_MODEL)
    revision: str = _setting(_LINE, "main")

    def check_together(self) -> None:
        if self.name.startswith(_PACKAGE):
            package, _, file = self.name.removeprefix(_PACKAGE).partition("/")
            if not (package.isidentifier() and file) or ".." in file.split("/"):
                raise ConfigError(
                    f"[model].name must be package:PACKAGE/FILE, got {_shown(self.name)}"
                )


@dataclass(frozen=True)
class DictionaryConfig(_Section):
    """Where features come from: a SAELens release, a folder, or the model's own neurons.

    `id` and `path` may hold `{layer}`. `key` is the projection whose columns
    are the keys of gated MLP neurons; it means nothing for the other kinds.
    """

    section: ClassVar[str] = "dictionary"

    kind: Literal["sae", "transcoder", "neurons"] = _setting(_KIND)
    release: str | None = _setting(_LINE, None)
    id: str | None = _setting(_LINE, None)
    path: Path | None = _setting(_PATH, None)  # noqa: RUF009 (a field, as its neighbours are)
    layers: Literal["all"] | tuple[int, ...] = _setting(_LAYERS, "all")
    trained_on: str | None = _setting(_LINE, None)
    key: Literal["gate", "up"] = _setting(_one_of("gate", "up"), "gate")

    def check_together(self) -> None:
        if self.kind == "neurons":
            for name in ("release", "id", "path", "trained_on"):
                if getattr(self, name) is not None:
                    raise ConfigError(
                        f"[dictionary].{name} means nothing for neurons, "
                        "which are the model's own: remove it"
                    )
            return
        if self.key != "gate":
            raise ConfigError(_KEY_OF_ANOTHER_KIND.format(kind=self.kind))
        if self.path is not None and (self.release is not None or self.id is not None):
            raise ConfigError("[dictionary] has a path besides release and id: keep one of the two")
        if self.path is None and (self.release is None or self.id is None):
            missing = "release and id, or path," if self.release is self.id else "release or id"
            raise ConfigError(f"[dictionary].{missing} is missing for a {self.kind}")
        name, place = ("id", self.id) if self.path is None else ("path", str(self.path))
        pattern = place or ""
        if re.search(r"[{}]", pattern.replace("{layer}", "")):
            raise ConfigError(
                f"[dictionary].{name} may hold {{layer}} and no other braces, got {_shown(pattern)}"
            )
        if self.layers != "all" and len(self.layers) > 1 and "{layer}" not in pattern:
            raise ConfigError(
                f"[dictionary].{name} names one dictionary, [dictionary].layers "
                f"{len(self.layers)} layers: put {{layer}} into {name}"
            )


@dataclass(frozen=True)
class ReferenceConfig(_Section):
    """Tokens at which Jacobians are taken: `samples` chunks of `length` tokens.

    `skip_first` and `skip_last` positions are left out of every average. A
    `tokens:` file has its own number of samples and length: those here are
    then unused, and the skips are checked when the file is read.
    """

    section: ClassVar[str] = "reference"

    source: str = _setting(_SOURCE, "hub:NeelNanda/pile-10k")
    samples: int = _setting(_integer(1), 1024)
    length: int = _setting(_integer(1), 32)
    seed: int = _setting(_SEED, 42)
    prepend_bos: bool = _setting(_FLAG, False)
    skip_first: int = _setting(_integer(0), 0)
    skip_last: int = _setting(_integer(0), 0)

    @property
    def parsed_source(self) -> ReferenceSource:
        return ReferenceSource.parse(self.source)

    def check_together(self) -> None:
        left_out = self.skip_first + self.skip_last
        if self.parsed_source.kind != "tokens" and left_out >= self.length:
            raise ConfigError(
                f"[reference].skip_first and skip_last leave out {_shown(left_out)} positions "
                f"of {_shown(self.length)}: at least one must remain"
            )


@dataclass(frozen=True)
class LensConfig(_Section):
    """How a feature is read: list length, transition, norms (method.md, section 2)."""

    section: ClassVar[str] = "lens"

    k: int = _setting(_integer(1), 25)
    transition: Literal["identity", "first-order", "full"] = _setting(
        _one_of("identity", "first-order", "full"), "full"
    )
    convention: Literal["paper", "exact"] = _setting(_one_of("paper", "exact"), "paper")
    final_norm: Literal["apply", "linearize"] = _setting(_one_of("apply", "linearize"), "apply")


@dataclass(frozen=True)
class ComputeConfig(_Section):
    """Where to compute; `batch` is the number of reference samples per pass.

    `release_after` is how many minutes an engine that nobody asks keeps the model; "auto":
    30 on a GPU, for ever on a CPU.
    """

    section: ClassVar[str] = "compute"

    device: str = _setting(_DEVICE, "auto")
    dtype: Literal["float32", "float64"] = _setting(_DTYPE, "float32")
    batch: Literal["auto"] | int = _setting(_BATCH, "auto")
    release_after: Literal["auto", "never"] | int | float = _setting(_RELEASE, "auto")

    def idle_seconds(self, device: str) -> float | None:
        """How long a model on `device` (such as `cuda:1`) may be idle; `None`: for ever."""
        if isinstance(self.release_after, str):
            kept = self.release_after == "never" or device.startswith("cpu")
            return None if kept else 60.0 * _IDLE_MINUTES
        return 60.0 * min(self.release_after, _AGES)


@dataclass(frozen=True)
class Config:
    """A whole file; `path` is where it was read from."""

    path: Path
    model: ModelConfig
    dictionary: DictionaryConfig
    reference: ReferenceConfig
    lens: LensConfig
    compute: ComputeConfig


SECTIONS: tuple[type[_Section], ...] = (
    ModelConfig,
    DictionaryConfig,
    ReferenceConfig,
    LensConfig,
    ComputeConfig,
)
_S = TypeVar("_S", bound=_Section)


def sample_names() -> tuple[str, ...]:
    """The bundled sample configurations, by the names `load_config` takes."""
    folder = files("sample_configs")
    return tuple(
        sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))
    )


def load_config(name_or_path: str | Path) -> Config:
    """Read a configuration file, or the bundled sample of that name.

    A bundled name wins over a file of the same name in the working directory
    (write `./name` for the file). Relative paths inside the file are relative
    to the file's folder.
    """
    path = _locate(name_or_path)
    try:
        tables = _tables(_read(path))
        return _config(path, tables)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def with_overrides(
    config: Config,
    *,
    k: int | None = None,
    transition: str | None = None,
    convention: str | None = None,
    final_norm: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    batch: str | int | None = None,
    layers: Sequence[int] | None = None,
    reference_tokens: Path | None = None,
) -> Config:
    """The configuration with what the command line says instead; None keeps the file's choice.

    `reference_tokens`, a JSON file of token ids, is relative to the working
    directory, as a path on a command line is.
    """
    tokens = None if reference_tokens is None else f"tokens:{_absolute(reference_tokens, Path())}"
    return replace(
        config,
        dictionary=_changed(config.dictionary, layers=layers),
        reference=_changed(config.reference, source=tokens),
        lens=_changed(
            config.lens, k=k, transition=transition, convention=convention, final_norm=final_norm
        ),
        compute=_changed(config.compute, device=device, dtype=dtype, batch=batch),
    )


def _changed(section: _S, **changes: object) -> _S:
    given = {name: value for name, value in changes.items() if value is not None}
    kept = {f.name: getattr(section, f.name) for f in fields(section)}  # type: ignore[arg-type]
    return _build(type(section), {k: v for k, v in kept.items() if v is not None} | given)


def _locate(name_or_path: str | Path) -> Path:
    if isinstance(name_or_path, str):
        names = sample_names()
        if name_or_path in names:
            return Path(str(files("sample_configs") / f"{name_or_path}.toml"))
        is_path = name_or_path.endswith(".toml") or os.sep in name_or_path
        if not is_path and not os.path.lexists(name_or_path.replace("\0", "")):
            nearest = difflib.get_close_matches(name_or_path.lower(), names, n=3, cutoff=0.0)
            raise ConfigError(
                f"no bundled configuration is called {_shown(name_or_path)}: the nearest are "
                f"{', '.join(nearest)}; or give a path to a .toml file"
            )
    return _absolute(name_or_path, Path())


def _read(path: Path) -> str:
    try:
        if path.is_dir():
            raise ConfigError("is a directory, not a configuration file")
        if path.exists() and not path.is_file():
            raise ConfigError("is not a regular file")
        if path.exists() and path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"is larger than {MAX_BYTES >> 20} MiB: not a configuration file")
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError("no such file") from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}") from None
    except ValueError:  # a NUL in the path
        raise ConfigError("no such file") from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"line {line} is not UTF-8 text") from None


def _tables(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError("is not valid TOML: nested too deeply") from None
    except ValueError as error:  # also Python's limit on the digits of an integer
        last = f"at line {text.count(chr(10)) + 1}, the end of the file"
        message = " ".join(str(error).replace("at end of document", last).split())
        raise ConfigError(f"is not valid TOML: {message}") from None


def _config(path: Path, tables: Mapping[str, object]) -> Config:
    known = {section.section: section for section in SECTIONS}
    for name, table in tables.items():
        if name not in known:
            owner = _owner(name)
            nearest = f"[{owner}].{name}" if owner else f"[{_nearest(name, known)}]"
            raise ConfigError(f"unknown section {_shown(name)}; the nearest known is {nearest}")
        if not isinstance(table, dict):
            raise ConfigError(f"[{name}] must be a table, got {_shown(table)}")
    sections: dict[str, Any] = {}
    for name, section in known.items():
        given = cast(dict[str, object], tables.get(name, {}))
        sections[name] = _build(section, given, path.parent)
    kind = sections["dictionary"].kind
    if kind != "neurons" and "key" in cast(dict[str, object], tables["dictionary"]):
        raise ConfigError(_KEY_OF_ANOTHER_KIND.format(kind=kind))
    return Config(path=path, **sections)


def _build(section: type[_S], table: Mapping[str, object], base: Path | None = None) -> _S:
    """Check every key's rule before construction, then resolve paths against `base`."""
    rules = _rules(section)
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in rules:
            owner = _owner(key)
            nearest = f"[{owner}].{key}" if owner else f"[{section.section}].{_nearest(key, rules)}"
            raise ConfigError(
                f"unknown key [{section.section}].{_shown(key)[1:-1]}; "
                f"the nearest known is {nearest}"
            )
        is_sequence = isinstance(value, Sequence) and not isinstance(value, str)
        values[key] = tuple(value) if is_sequence else value  # type: ignore[arg-type]
        _check(section.section, key, values[key], rules[key])
    for f in fields(section):  # type: ignore[arg-type]
        if f.default is MISSING and f.name not in values:
            allowed = rules[f.name].allowed
            raise ConfigError(f"[{section.section}].{f.name} is missing: it must be {allowed}")
    return section(**(_resolved(values, base) if base is not None else values))


def _resolved(values: dict[str, Any], base: Path) -> dict[str, Any]:
    """Paths made absolute. Only an explicit path is one for a model: `a/b` is a hub id."""
    resolved = dict(values)
    if re.match(r"(\.{0,2}/|~|\.{1,2}$)", values.get("name", "")):
        resolved["name"] = str(_absolute(values["name"], base))
    if "path" in values:
        path = str(values["path"])
        packaged = path.startswith(_PACKAGE)
        resolved["path"] = _in_package(path) if packaged else _absolute(path, base)
    if "source" in values:
        source = ReferenceSource.parse(values["source"])
        if source.kind in ("text", "tokens"):
            resolved["source"] = f"{source.kind}:{_absolute(source.location, base)}"
    return resolved


def _in_package(path: str) -> Path:
    """`package:PACKAGE/FOLDER`: a folder that an installed package ships."""
    package, _, folder = path.removeprefix(_PACKAGE).partition("/")
    if not (package.isidentifier() and folder) or ".." in folder.split("/"):
        raise ConfigError(f"[dictionary].path must be package:PACKAGE/FOLDER, got {_shown(path)}")
    try:
        spec = find_spec(package)
    except ValueError:  # a module that is running, and was not found by anybody
        spec = None
    if spec is None or spec.origin is None:
        raise ConfigError(
            f"[dictionary].path names the package {package}, which is not installed: "
            f"pip install {package.replace('_', '-')}"
        )
    return Path(spec.origin).parent / folder


def _absolute(path: str | Path, base: Path) -> Path:
    return Path(os.path.abspath(base / os.path.expanduser(path)))


def _rules(section: type[_Section]) -> dict[str, _Rule]:
    return {f.name: f.metadata["rule"] for f in fields(section)}  # type: ignore[arg-type]


def _check(section: str, key: str, value: object, rule: _Rule) -> None:
    if not rule.accepts(value):
        raise ConfigError(f"[{section}].{key} must be {rule.allowed}, got {_shown(value)}")


def _owner(key: str) -> str | None:
    """The section that has this very key: most unknown keys are right ones in a wrong place."""
    return next((s.section for s in SECTIONS if key in _rules(s)), None)


def _nearest(word: str, known: Mapping[str, object]) -> str:
    return difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.0)[0]


def _shown(value: object) -> str:
    """A value as TOML would write it, on one line, escaped and not long."""
    if isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, int):
        text = str(value) if value.bit_length() < 64 else f"{value:#x}"
    elif isinstance(value, str):
        text = json.dumps(value).replace("\x7f", "\\u007f")
    elif isinstance(value, list | tuple):
        text = f"[{', '.join(_shown(item) for item in value[:8])}{', ...' * (len(value) > 8)}]"
    elif isinstance(value, Mapping):
        text = "a table"
    else:
        text = str(value)
    return text if len(text) <= 80 else f"{text[:76]} ..."
