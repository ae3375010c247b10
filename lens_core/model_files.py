"""Where a model is: a directory in the layout of transformers, or one GGUF file.

Names are resolved to an existing path here, before a library sees them: transformers would use
a folder in the working directory in place of the hub id of the same name. A directory's content
is checked first, so that an error message can say what is missing. No torch here, because
`qlens doctor` makes the same checks.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lens_core import hub
from lens_core.config import ModelConfig
from lens_core.errors import ConfigError, LensError, ModelError
from lens_core.foreign import in_plain_words
from lens_core.names import (
    HUB_ID,
    PACKAGE,
    absolute,
    is_path,
    not_installed,
    package_folder,
    parts_of_package,
    written_as_path,
)

CONFIG = "config.json"
# In the order in which transformers looks for them, each whole or sharded with an index.
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
INDEX = ".index.json"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_SMALL = (
    *(f"{name}{INDEX}" for name in WEIGHTS),
    *TOKENIZERS,
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "chat_template.jinja",
)
_SHOWN = 4  # file names in a message


class HubModelError(ModelError):
    """A hub id is not in the cache and was not fetched."""


def find_model(config: ModelConfig, *, offline: bool = False, beside: Path | None = None) -> Path:
    """The directory or GGUF file of `config.name`; a hub id is fetched first.

    `beside` is the configuration's folder, for advice on a folder written like a hub id.

    Raises:
        HubModelError: a hub id is not on this machine and cannot, or must not, be fetched.
        ModelError: the path does not exist, or is not a model.
        ConfigError: `config.name` cannot be a hub id.
    """
    try:
        return _found(config, offline or hub.is_offline(), beside or Path())
    except OSError as error:  # no permission, a name that is too long, a missing file system
        raise ModelError(f"{config.name} cannot be opened: {in_plain_words(error)}") from error


def _found(config: ModelConfig, offline: bool, beside: Path) -> Path:
    if config.name.startswith(PACKAGE):
        return _in_directory(_packaged(config.name))
    if is_path(config.name):
        return _in_directory(absolute(config.name, Path()))
    advice = written_as_path(config.name, beside)
    if HUB_ID.fullmatch(config.name) is None:
        raise ConfigError(
            f"[model].name {config.name} is neither a path nor a hub id (owner/name){advice}"
        )
    try:
        return _in_directory(_from_hub(config, offline))
    except HubModelError as error:
        raise HubModelError(f"{error}{advice}") from error.__cause__


def weights_of(directory: Path) -> list[Path]:
    """The weight files of a directory, all of which exist; empty if there are none.

    Raises:
        ModelError: an index is damaged, or a file that it names is missing.
    """
    for name in WEIGHTS:
        whole, index = directory / name, directory / f"{name}{INDEX}"
        if whole.is_file():
            return [whole]
        if not index.is_file():
            continue
        parts = [directory / part for part in sorted(_parts(index))]
        missing = [part.name for part in parts if not part.is_file()]
        if missing:
            raise ModelError(f"{directory} lacks {_some(missing)}, which {index.name} names")
        return parts
    return []


def read_model_config(directory: Path) -> dict[str, Any]:
    """The `config.json` of a model.

    Raises:
        ModelError: it is missing or damaged, or names no type of model.
    """
    file = directory / CONFIG
    try:
        content = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise ModelError(_why_no_config(directory)) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file} cannot be read as JSON: {in_plain_words(error)}") from error
    if not isinstance(content, dict) or not isinstance(content.get("model_type"), str):
        raise ModelError(f"{file} names no model_type: it is not the configuration of a model")
    return content


def cached_snapshot(config: ModelConfig) -> Path | None:
    """The path of a hub id's `config.json` in the hub's cache, even if other files are missing."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(config.name, CONFIG, revision=config.revision)
    return Path(found).parent if isinstance(found, str) else None


def _packaged(name: str) -> Path:
    parts = parts_of_package(name)
    assert parts is not None, "the configuration was checked"
    package, file = parts
    folder = package_folder(package)
    if folder is None:
        raise ModelError(not_installed(package))
    if not (folder / file).exists():
        shipped = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*.gguf"))]
        has = f"it ships {_some(shipped)}" if shipped else "it ships no .gguf file"
        raise ModelError(f"the package {package} has no {file}: {has}")
    return folder / file


def _in_directory(path: Path) -> Path:
    """`path` itself, or the one GGUF file of a directory without other weights."""
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise ModelError(
                f"{path} is a file: [model].name takes a directory or a file that ends in .gguf"
            )
        return path
    if not path.is_dir():
        what = "file" if path.suffix.lower() == ".gguf" else "directory"
        raise ModelError(f"there is no {what} {path}: check [model].name")
    if weights_of(path):
        return path
    ggufs = sorted(file.name for file in path.iterdir() if file.suffix.lower() == ".gguf")
    if len(ggufs) == 1:
        return path / ggufs[0]
    if ggufs:
        raise ModelError(
            f"{path} holds {len(ggufs)} GGUF files ({_some(ggufs)}): name one of them in "
            "[model].name"
        )
    read_model_config(path)
    raise ModelError(
        f"{path} holds no weights: qlens reads {WEIGHTS[0]} or {WEIGHTS[1]}, whole or sharded "
        "with an index, or one .gguf file"
    )


def _why_no_config(directory: Path) -> str:
    if (directory / "adapter_config.json").is_file():
        return (
            f"{directory} holds an adapter (adapter_config.json) and not a whole model: merge it "
            "into its base model and save that"
        )
    holds = "is empty" if not any(directory.iterdir()) else f"holds no {CONFIG}"
    return f"{directory} {holds}: [model].name takes a directory that transformers saved"


def _parts(index: Path) -> set[str]:
    try:
        names = json.loads(index.read_text("utf-8"))["weight_map"].values()
        return {str(Path(name).name) for name in names}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{index} is damaged: {in_plain_words(error)}") from error


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _from_hub(config: ModelConfig, offline: bool) -> Path:
    """The snapshot of a hub id in the hub's cache, with its weights.

    The cache is used when the hub cannot be reached, and when offline.

    Raises:
        HubModelError: it is not cached and cannot be fetched.
    """
    from huggingface_hub.errors import OfflineModeIsEnabled

    wanted = hub.Wanted(f"model {config.name}", config.name, "[model].name")
    try:
        if offline:
            raise OfflineModeIsEnabled
        return _fetched(config, wanted.page)
    except Exception as error:  # the hub's client and its transports raise many types
        if (cached := _cached(config)) is not None:
            return cached
        if isinstance(error, LensError):
            raise
        said = hub.explained(error, wanted, offline=offline)
        said = said or f"model {config.name} cannot be fetched: {in_plain_words(error)}"
        raise HubModelError(said) from error


def _cached(config: ModelConfig) -> Path | None:
    """The snapshot in the hub's cache; `None` where it lacks configuration or weights."""
    found = cached_snapshot(config)
    try:
        if found is not None and weights_of(found):
            return found
    except ModelError:  # some of its shards are missing
        pass
    return None


def _fetched(config: ModelConfig, page: str) -> Path:
    """Fetch the snapshot: small files first, then the weights that transformers would use."""
    from huggingface_hub import snapshot_download

    def fetch(revision: str, *files: str) -> Path:
        # Includes the configuration, which always exists: a pattern without a match is a warning.
        patterns = [CONFIG, *files]
        return Path(snapshot_download(config.name, revision=revision, allow_patterns=patterns))

    snapshot = fetch(config.revision, *_SMALL)
    if not (snapshot / CONFIG).is_file():
        raise HubModelError(
            f"model {config.name}: {page} has no {CONFIG}: qlens opens what transformers saved; "
            "download a GGUF and write the path of the file"
        )
    for name in WEIGHTS:
        index = snapshot / f"{name}{INDEX}"
        fetch(snapshot.name, *(_parts(index) if index.is_file() else [name]))
        if index.is_file() or (snapshot / name).is_file():
            return snapshot
    raise HubModelError(f"model {config.name}: {page} has neither {' nor '.join(WEIGHTS)}")
