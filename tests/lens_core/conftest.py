"""Operators, built once for all workers, and a fake Hugging Face hub: no test uses the network."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import huggingface_hub
import pytest

from lens_core.model import ResidualModel
from lens_core.operators.build import assemble, build_operators
from lens_core.operators.contents import is_complete
from lens_core.operators.files import Operators
from lens_core.operators.plan import plan_build
from lens_core.reference import ReferenceSample
from tests.lens_core.fake_hub import TOKEN, Respond


@pytest.fixture(scope="session")
def _built() -> dict[str, Operators]:
    return {}


@pytest.fixture(scope="session")
def operators(
    architecture: str,
    tiny: ResidualModel,
    reference: ReferenceSample,
    _built: dict[str, Operators],
    tmp_path_factory: pytest.TempPathFactory,
) -> Operators:
    """Those of `tiny` over `reference`; not to be changed."""
    if architecture not in _built:  # pytest itself keeps one architecture's at a time
        place = tmp_path_factory.getbasetemp()
        if "PYTEST_XDIST_WORKER" in os.environ:
            place = place.parent  # of this run, the same in all its workers
        directory = place / f"operators-{architecture}"
        with open(f"{directory}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if is_complete(directory):
                _built[architecture] = Operators(directory)
            else:
                plan = plan_build(tiny, tiny.fingerprint, reference)
                build_operators(tiny, reference, plan, directory)
                _built[architecture] = assemble(directory)
    return _built[architecture]


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and no network."""
    place = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(place))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return place


@pytest.fixture
def hub(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Respond], None]]:
    """Online, with a fake hub behind the real client; retries do not wait."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("time.sleep", lambda seconds: None)

    def answers(respond: Respond) -> None:
        monkeypatch.setattr(
            httpx2.HTTPTransport, "handle_request", lambda transport, request: respond(request)
        )

    yield answers
    huggingface_hub.close_session()
