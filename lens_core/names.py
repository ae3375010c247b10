"""What a name in a configuration means: a path, a file of a package, or a hub id.

One rule for every name, independent of what is in the working directory:

    begins with `/`, `./`, `../` or `~`, or ends in `.gguf`   a path, relative to the configuration
    `package:PACKAGE/FILE`                                    a file that an installed package ships
    everything else                                           a hub id, never a folder

The libraries that load models would use a folder in the working directory in place of a hub id
of the same name, so hub ids are never passed to them: `lens_core.model_files` resolves them.
"""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from lens_core.errors import ConfigError

PACKAGE = "package:"
HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)
"""`name` or `owner/name`."""

RepositoryKind = Literal["model", "dataset", "space"]

_FOLDER_ON_HUB = re.compile(
    r"hub:(?P<space>spaces/)?(?P<id>(?!spaces/|datasets/)\w[\w.-]*/\w[\w.-]*)"
    r"(?:/(?P<folder>\w[\w./-]*))?",
    re.ASCII,
)
_SCHEME = re.compile(rf"(?!{PACKAGE})[a-z][a-z0-9+.-]+:/+", re.IGNORECASE)
_HUB = re.compile(r"(www\.)?(huggingface\.co|hf\.co)/", re.IGNORECASE)
# First parts of the hub's addresses that are no owner of a model or a data set.
_NO_OWNERS = ("api", "blog", "collections", "docs", "learn", "models", "papers", "spaces", "tasks")
_PATH = re.compile(r"(\.{0,2}/|~|\.{1,2}$)")


def is_path(name: str) -> bool:
    """Whether `name` is a path by its form alone."""
    return _PATH.match(name) is not None or (
        name.lower().endswith(".gguf") and not name.startswith(PACKAGE)
    )


def is_url(name: str) -> bool:
    """Whether `name` is a web address, of the hub or of another site."""
    return bool(_SCHEME.match(name) or _HUB.match(name))


def on_hub(url: str, *, dataset: bool = False) -> tuple[str, str] | None:
    """The hub id and the revision ("": none) in the address of a model or of a data set.

    `None` where the address names none, or names a GGUF file, which is opened by its path.
    """
    address = re.sub(r"[?#].*", "", _SCHEME.sub("", url, count=1))
    if _HUB.match(address) is None or address.lower().endswith(".gguf"):
        return None
    parts = [part for part in address.split("/")[1:] if part]
    if (parts[:1] == ["datasets"]) is not dataset:
        return None
    parts = parts[dataset:]
    name = "/".join(parts[:2])
    if HUB_ID.fullmatch(name) is None or parts[0] in _NO_OWNERS:
        return None
    has_revision = len(parts) > 3 and parts[2] in ("tree", "blob", "resolve")
    return name, parts[3] if has_revision else ""


def hub_folder(name: str) -> tuple[RepositoryKind, str, str] | None:
    """Kind, id and folder ("": the whole) of `hub:[spaces/]OWNER/NAME[/FOLDER]`; else `None`."""
    found = _FOLDER_ON_HUB.fullmatch(name)
    folder = "" if found is None else found["folder"] or ""
    if found is None or (folder and not {"", ".", ".."}.isdisjoint(folder.split("/"))):
        return None
    return "space" if found["space"] else "model", found["id"], folder


def absolute(path: str | Path, base: Path) -> Path:
    """`path` from `base` (the working directory: `Path()`), with `~` and `..` resolved.

    Raises:
        ConfigError: it begins with the name of a user that this machine does not have.
    """
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        user = expanded.partition("/")[0]
        raise ConfigError(f"{path} begins with {user}, and there is no such user on this machine")
    try:
        return Path(os.path.abspath(base / expanded))
    except FileNotFoundError:
        raise ConfigError(
            f"{path} is relative to the working directory, which was removed: give a full path"
        ) from None


def parts_of_package(name: str) -> tuple[str, str] | None:
    """PACKAGE and FILE of `package:PACKAGE/FILE`; `None` where it is not of that form."""
    package, _, file = name.removeprefix(PACKAGE).partition("/")
    well_formed = package.isidentifier() and file and ".." not in file.split("/")
    return (package, file) if well_formed else None


def package_folder(package: str) -> Path | None:
    """The folder of an installed package; `None` where it is not installed."""
    try:
        spec = find_spec(package)
    except ValueError:  # a running module without a spec
        return None
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def not_installed(package: str) -> str:
    """The message for a package that is not installed."""
    return (
        f"the package {package} is not installed: pip install --no-deps {package.replace('_', '-')}"
    )


def written_as_path(name: str, beside: Path) -> str:
    """Advice on how to write a folder that was written like a hub id.

    Looks in `beside`, the configuration's folder, and in the working directory.
    """
    if (beside / name).is_dir():
        found, written = beside / name, f"./{name}"
    elif Path(name).is_dir():
        found = Path(name).absolute()
        written = os.path.relpath(found, beside)
    else:
        return f'; a folder is written "./{name}", relative to the configuration'
    return f'; for the folder {found} write "{written}": a name without ./ is a hub id'
