"""A tiny real model for commands that explain its features, and the same with operators."""

from __future__ import annotations

import pytest

from tests.qlens_tui.workplace import Workplace, make_workplace


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return make_workplace(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="session")
def built(place: Workplace) -> Workplace:
    """The same with operators."""
    built = place.with_cache("built")
    assert built.document("build", built.config)["complete"]
    return built
