"""The Hugging Face hub as SAELens's readers see it: kept out when offline, its failures in a line.

SAELens's readers take no `local_files_only`, and the one for Gemma Scope 2 asks
the hub for tensor shapes over plain HTTP even when the file is cached. So being
offline is done here, once, around them. A hub failure arrives as one of a dozen
exceptions of three libraries; what a user must do depends on four cases only:
not cached, gated, not there, not reachable. A token never gets into a message.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pickle import UnpicklingError

from lens_core.errors import DictionaryError, one_line

_NETWORK_PACKAGES = ("httpx", "httpx2", "httpcore", "requests", "urllib3", "h11")


def is_offline() -> bool:
    """Whether the environment forbids the network (`HF_HUB_OFFLINE`)."""
    from huggingface_hub import constants

    variable = os.environ.get("HF_HUB_OFFLINE", "").upper()
    return bool(constants.HF_HUB_OFFLINE) or variable in {"1", "ON", "YES", "TRUE"}


def prepare_libraries(*, offline: bool) -> None:
    """Set what the hub's libraries read when they are imported: call this before torch is."""
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    if not sys.stderr.isatty():
        # A log is no place for bars, and an error should be the only line there.
        os.environ.setdefault("TQDM_DISABLE", "1")


@contextmanager
def reading(what: str, repository: str, folder: str, *, offline: bool) -> Iterator[None]:
    """Around calls of SAELens that read `what`, which lies in `folder` of `repository`.

    Raises:
        DictionaryError: for whatever goes wrong inside. SAELens parses foreign files with
            plain Python, so that a damaged one may raise anything.
    """
    offline = offline or is_offline()
    if os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "0").lower() in {"1", "y", "yes", "true"}:
        raise DictionaryError(
            "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD lets a downloaded file run code: unset it"
        )
    try:
        with _network(closed=offline), _quiet():
            yield
    except (DictionaryError, MemoryError):
        raise
    except Exception as error:
        raise DictionaryError(_explained(error, what, repository, folder, offline)) from error


@contextmanager
def foreign_files(folder: str) -> Iterator[None]:
    """Around calls of SAELens that read `folder` on disk.

    Raises:
        DictionaryError: for whatever goes wrong inside, as in `reading`.
    """
    try:
        with _quiet():
            yield
    except (DictionaryError, MemoryError):
        raise
    except Exception as error:
        raise DictionaryError(_unreadable(error, folder)) from error


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # What SAELens warns about is either refused by us or about another way to load.
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _network(*, closed: bool) -> Iterator[None]:
    """Reads tensor shapes from the cache where it can, and forbids requests if `closed`."""
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError
    from sae_lens.loading import pretrained_sae_loaders as readers
    from safetensors import safe_open

    before = constants.HF_HUB_OFFLINE, readers.get_safetensors_tensor_shapes

    def shapes(repo_id: str, filename: str) -> dict[str, list[int]]:
        try:
            path = hf_hub_download(repo_id, filename, local_files_only=True)
        except LocalEntryNotFoundError:
            if closed:
                raise
            return dict(before[1](repo_id, filename))
        with safe_open(path, "pt") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118

    constants.HF_HUB_OFFLINE, readers.get_safetensors_tensor_shapes = closed, shapes
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, readers.get_safetensors_tensor_shapes = before


def _explained(error: Exception, what: str, repository: str, folder: str, offline: bool) -> str:
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    page = f"https://huggingface.co/{repository}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    not_cached = isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled)
    if isinstance(error, GatedRepoError) or (
        status in (401, 403) and not isinstance(error, RepositoryNotFoundError)
    ):
        return (
            f"{what} is in a gated repository: accept its terms on {page} "
            "and set HF_TOKEN to a token of that account"
        )
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"{what}: there is no public repository {page}: "
            "check [dictionary].release, or set HF_TOKEN if it is private"
        )
    if not_cached and offline:
        return (
            f"{what} is not in the local cache: offline, qlens cannot fetch {folder} "
            f"of {repository} from the Hugging Face hub"
        )
    if status == 404 or (isinstance(error, EntryNotFoundError) and not not_cached):
        return f"{what}: {page} holds no file for {folder}: check [dictionary].id"
    if status is not None:
        return f"{what}: the Hugging Face hub answered {status} for {repository}: try again later"
    if not_cached or _is_network(error):
        return (
            f"{what}: cannot reach the Hugging Face hub to fetch {folder} of {repository} "
            f"({type(error).__name__}): check the network"
        )
    return _unreadable(error, what)


def _unreadable(error: Exception, what: str) -> str:
    from safetensors import SafetensorError

    if isinstance(error, SafetensorError):
        return f"{what} holds a damaged or incomplete safetensors file: {one_line(error)}"
    if isinstance(error, UnpicklingError):
        return f"{what} is a pickle that holds more than tensors, which is never opened"
    if isinstance(error, OSError) and error.strerror:
        return f"{what} cannot be read: {error.strerror}"
    return f"{what} cannot be read: {one_line(error)}"


def _is_network(error: Exception) -> bool:
    package = type(error).__module__.partition(".")[0]
    return package in _NETWORK_PACKAGES or isinstance(error, ConnectionError | TimeoutError)
