"""Wrappers of SAELens's readers: no network when offline, and errors in one line.

The readers take no `local_files_only`, and the one for Gemma Scope 2 asks the hub for tensor
shapes over plain HTTP even if the file is cached, so the network is blocked here. They parse
files with plain Python, so a damaged file may raise anything.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from lens_core.errors import DictionaryError
from lens_core.foreign import in_plain_words
from lens_core.hub import Wanted, explained, is_offline


@contextmanager
def reading_release(
    what: str, repository: str, folder: str, *, offline: bool, advice: str = ""
) -> Iterator[None]:
    """A context for calls of SAELens that read `what` from `folder` of `repository`.

    `advice` is appended to error messages.

    Raises:
        DictionaryError: for whatever goes wrong inside.
    """
    offline = offline or is_offline()
    if os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "0").lower() in {"1", "y", "yes", "true"}:
        raise DictionaryError(
            "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD lets a downloaded file run code: unset it"
        )
    wanted = Wanted(
        what, repository, "[dictionary].release", part=folder, part_setting="[dictionary].id"
    )
    try:
        with _network(closed=offline), _quiet():
            yield
    except (DictionaryError, MemoryError):
        raise
    except Exception as error:
        said = explained(error, wanted, offline=offline) or _unreadable(error, what)
        raise DictionaryError(f"{said}{advice}") from error


@contextmanager
def reading_folder(folder: str) -> Iterator[None]:
    """A context for calls of SAELens that read `folder` on disk.

    Raises:
        DictionaryError: for whatever goes wrong inside.
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
        # SAELens's warnings concern cases that we refuse, or other ways of loading.
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _network(*, closed: bool) -> Iterator[None]:
    """Read tensor shapes from the cache where possible, and forbid requests if `closed`."""
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


def _unreadable(error: Exception, what: str) -> str:
    return f"{what} cannot be read: {in_plain_words(error)}"
