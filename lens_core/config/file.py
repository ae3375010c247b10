"""Read a configuration file, and override it from the command line.

A mistake is one `ConfigError` that names the file, the key, the value and what is allowed.
"""

from __future__ import annotations

import codecs
import difflib
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar, cast

from lens_core.config.rules import Section, check, rules_of, shown
from lens_core.config.sections import (
    KEY_OF_ANOTHER_KIND,
    SECTIONS,
    Config,
    ReferenceSource,
)
from lens_core.errors import ConfigError
from lens_core.names import (
    PACKAGE,
    absolute,
    is_path,
    not_installed,
    package_folder,
    parts_of_package,
)

# A weights file given by mistake must not be parsed as a configuration.
_MAX_BYTES = 1 << 20

_S = TypeVar("_S", bound=Section)


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
    explanations: Path | None = None,
) -> Config:
    """The configuration with values from the command line; `None` keeps the file's value.

    `reference_tokens`, a JSON file of token ids, and `explanations` are relative to the working
    directory, as a path on a command line is.
    """
    tokens = None if reference_tokens is None else f"tokens:{absolute(reference_tokens, Path())}"
    file = None if explanations is None else absolute(explanations, Path())
    return replace(
        config,
        dictionary=_changed(config.dictionary, layers=layers),
        reference=_changed(config.reference, source=tokens),
        lens=_changed(
            config.lens, k=k, transition=transition, convention=convention, final_norm=final_norm
        ),
        explanations=_changed(config.explanations, file=file),
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
                f"no bundled configuration is called {shown(name_or_path)}: the nearest are "
                f"{', '.join(nearest)}; or give a path to a .toml file"
            )
    return absolute(name_or_path, Path())


def _read(path: Path) -> str:
    try:
        if path.is_dir():
            raise ConfigError("is a directory, not a configuration file")
        if path.exists() and not path.is_file():
            raise ConfigError("is not a regular file")
        if path.exists() and path.stat().st_size > _MAX_BYTES:
            raise ConfigError(f"is larger than {_MAX_BYTES >> 20} MiB: not a configuration file")
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError("no such file") from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}") from None
    except ValueError:  # a NUL in the path
        raise ConfigError("no such file") from None
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ConfigError("is UTF-16 text: save it as UTF-8")
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
    except ValueError as error:  # also raised for an integer with too many digits
        last = f"at line {text.count(chr(10)) + 1}, the end of the file"
        message = " ".join(str(error).replace("at end of document", last).split())
        raise ConfigError(f"is not valid TOML: {message}") from None


def _config(path: Path, tables: Mapping[str, object]) -> Config:
    known = {section.section: section for section in SECTIONS}
    for name, table in tables.items():
        if name not in known:
            owner = _owner(name)
            nearest = f"[{owner}].{name}" if owner else f"[{_nearest(name, known)}]"
            raise ConfigError(f"unknown section {shown(name)}; the nearest known is {nearest}")
        if not isinstance(table, dict):
            raise ConfigError(f"[{name}] must be a table, got {shown(table)}")
    sections: dict[str, Any] = {}
    for name, section in known.items():
        given = cast(dict[str, object], tables.get(name, {}))
        sections[name] = _build(section, given, path.parent)
    kind = sections["dictionary"].kind
    if kind != "neurons" and "key" in cast(dict[str, object], tables["dictionary"]):
        raise ConfigError(KEY_OF_ANOTHER_KIND.format(kind=kind))
    return Config(path=path, **sections)


def _build(section: type[_S], table: Mapping[str, object], base: Path | None = None) -> _S:
    """Check every key's rule before construction, then resolve paths against `base`."""
    rules = rules_of(section)
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in rules:
            owner = _owner(key)
            nearest = f"[{owner}].{key}" if owner else f"[{section.section}].{_nearest(key, rules)}"
            raise ConfigError(
                f"unknown key [{section.section}].{shown(key)[1:-1]}; "
                f"the nearest known is {nearest}"
            )
        is_sequence = isinstance(value, Sequence) and not isinstance(value, str)
        values[key] = tuple(value) if is_sequence else value  # type: ignore[arg-type]
        check(section.section, key, values[key], rules[key])
    for f in fields(section):  # type: ignore[arg-type]
        if f.default is MISSING and f.name not in values:
            allowed = rules[f.name].allowed
            raise ConfigError(f"[{section.section}].{f.name} is missing: it must be {allowed}")
    return section(**(_resolved(values, base) if base is not None else values))


def _resolved(values: dict[str, Any], base: Path) -> dict[str, Any]:
    """Make paths absolute; a model's name only if it has the form of a path (`lens_core.names`)."""
    resolved = dict(values)
    if is_path(values.get("name", "")):
        resolved["name"] = str(absolute(values["name"], base))
    if "path" in values:
        resolved["path"] = _folder(str(values["path"]), base)
    if "file" in values:
        resolved["file"] = absolute(values["file"], base)
    if not str(values.get("tuned", "hub:")).startswith("hub:"):
        resolved["tuned"] = str(absolute(values["tuned"], base))
    if "source" in values:
        source = ReferenceSource.parse(values["source"])
        if source.kind in ("text", "tokens"):
            resolved["source"] = f"{source.kind}:{absolute(source.location, base)}"
    return resolved


def _folder(path: str, base: Path) -> Path:
    """A folder, or `package:PACKAGE/FOLDER` that an installed package ships."""
    if re.search(r"[{}]", path.replace("{layer}", "")):
        raise ConfigError(
            f"[dictionary].path may hold {{layer}} and no other braces, got {shown(path)}"
        )
    if not path.startswith(PACKAGE):
        folder = absolute(path, base)
        if str(folder).count("{layer}") > path.count("{layer}"):
            raise ConfigError(
                f"[dictionary].path cannot be used: the folder {base} has {{layer}} in its name; "
                "rename it"
            )
        return folder
    parts = parts_of_package(path)
    if parts is None:
        raise ConfigError(f"[dictionary].path must be package:PACKAGE/FOLDER, got {shown(path)}")
    package, folder_name = parts
    home = package_folder(package)
    if home is None:
        raise ConfigError(f"[dictionary].path: {not_installed(package)}")
    return home / folder_name


def _owner(key: str) -> str | None:
    """The section that has this key: most unknown keys are valid ones in the wrong section."""
    return next((s.section for s in SECTIONS if key in rules_of(s)), None)


def _nearest(word: str, known: Mapping[str, object]) -> str:
    return difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.0)[0]
