"""The Hugging Face hub: whether it may be used, and messages for its failures.

Models, dictionaries and data sets are fetched by four libraries that raise a dozen
exceptions, some of them wrapped in others. For a user there are only a few cases: gated,
not found, no such revision, no such file, not in the cache, not reachable, server error.
This module maps exceptions to these. A message never contains an access token.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lens_core.names import RepositoryKind

_NETWORK_PACKAGES = ("httpx", "httpx2", "httpcore", "requests", "urllib3", "h11")


def is_offline() -> bool:
    """Whether the environment forbids the network (`HF_HUB_OFFLINE`)."""
    from huggingface_hub import constants

    variable = os.environ.get("HF_HUB_OFFLINE", "").upper()
    return bool(constants.HF_HUB_OFFLINE) or variable in {"1", "ON", "YES", "TRUE"}


def cached_blob(path: Path) -> str | None:
    """The hash by which the hub's cache names the content of a file; `None`: it is not there."""
    if not path.is_symlink():
        return None
    from huggingface_hub import constants

    target = path.resolve()
    is_blob = target.parent.name == "blobs" and target.is_relative_to(
        Path(constants.HF_HUB_CACHE).resolve()
    )
    return target.name if is_blob else None


def cached_commits(repository: str, kind: str) -> dict[str, str]:
    """The commits of a repository that the hub's cache knows, by the path of their reference.

    `kind` is `model` or `dataset`.
    """
    from huggingface_hub import constants

    name = f"{kind}s--{repository.replace('/', '--')}"
    refs = Path(constants.HF_HUB_CACHE) / name / "refs"
    return {
        str(path): path.read_text("utf-8") for path in sorted(refs.rglob("*")) if path.is_file()
    }


def prepare_libraries(*, offline: bool) -> None:
    """Set variables that the hub's libraries read at import; call this before importing torch."""
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    if not sys.stderr.isatty():
        # No progress bars in logs, and no other lines beside an error.
        os.environ.setdefault("TQDM_DISABLE", "1")


@dataclass(frozen=True)
class Wanted:
    """What was fetched from the hub, for its error messages.

    `what` is the thing as the user named it, `part` the part of it that was fetched ("" for
    all of it), `setting` and `part_setting` the configuration keys that name the two.
    """

    what: str
    repository: str
    setting: str
    kind: RepositoryKind = "model"
    part: str = ""
    part_setting: str = ""

    @property
    def page(self) -> str:
        from huggingface_hub import constants

        folder = "" if self.kind == "model" else f"{self.kind}s/"
        return f"{constants.ENDPOINT}/{folder}{self.repository}"


def explained(error: BaseException, wanted: Wanted, *, offline: bool) -> str | None:
    """One line for a failure of the hub; `None` if `error` is something else."""
    from huggingface_hub import errors

    chain = list(_causes(error))

    def met(*kinds: type[BaseException]) -> bool:
        return any(isinstance(each, kinds) for each in chain)

    what, page, part = wanted.what, wanted.page, wanted.part
    offline = offline or is_offline() or met(errors.OfflineModeIsEnabled)
    status = next(filter(None, (_status(each) for each in chain)), None)
    # `datasets` wraps a GatedRepoError in an exception that only its text identifies.
    absent = [each for each in chain if type(each).__name__ == "DatasetNotFoundError"]
    if met(errors.GatedRepoError) or any("gated" in str(each) for each in absent):
        return (
            f"{what} is gated: accept its terms on {page} and set HF_TOKEN to a token of that "
            "account"
        )
    if met(errors.RevisionNotFoundError):
        return f"{what}: {page} has no such revision: check [model].revision"
    if met(errors.HFValidationError):
        return f"{what}: the hub has no such name: check {wanted.setting}"
    if met(errors.RepositoryNotFoundError) or absent:
        return (
            f"{what}: there is no public repository {page}: check {wanted.setting}, or set "
            "HF_TOKEN if it is private"
        )
    not_cached = met(errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)
    unreachable = not_cached or any(_is_network(each) for each in chain)
    if unreachable and offline:
        return (
            f"{what} is not in the local Hugging Face cache, and this run is offline: online, "
            f"qlens would fetch {part or 'it'} from {page}"
        )
    if met(errors.EntryNotFoundError) and not not_cached:
        return f"{what}: {page} has no {part}: check {wanted.part_setting or wanted.setting}"
    if status in (401, 403):
        return f"{what}: {page} refuses access ({status}): check HF_TOKEN and the page's terms"
    if status == 404:
        return f"{what}: {page} has no {part or 'data'}: check {wanted.setting}"
    if status is not None and status >= 400:
        return f"{what}: the Hugging Face hub answered {status} for {page}: try again later"
    if unreachable:
        return (
            f"{what}: cannot reach the Hugging Face hub to fetch {part or 'it'} from {page}: "
            "check the network"
        )
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """`error` and the exceptions it was raised from, each once."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _status(error: BaseException) -> int | None:
    response: Any = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    return status if isinstance(status, int) else None


def _is_network(error: BaseException) -> bool:
    package = type(error).__module__.partition(".")[0]
    return package in _NETWORK_PACKAGES or isinstance(error, ConnectionError | TimeoutError)
