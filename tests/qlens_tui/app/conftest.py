"""A tiny real model with its operators, for tests of the whole app."""

import pytest

from tests.qlens_tui.workplace import Workplace, make_workplace


@pytest.fixture(scope="session")
def tiny_place(tmp_path_factory) -> Workplace:
    """A model, a reference and operators, made once."""
    place = make_workplace(tmp_path_factory.mktemp("desk"))
    assert place.run("build", place.config).exit_code == 0
    return place


@pytest.fixture
def place(tiny_place, tmp_path, monkeypatch) -> Workplace:
    """The same with its own marks, saved visit and working directory."""
    monkeypatch.setenv("QLENS_CACHE_DIR", str(tiny_place.cache))
    monkeypatch.setenv("QLENS_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("QLENS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tiny_place
