"""Folders are where the user sets them, and an unusable one is reported in one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lens_core.directories import cache_dir
from lens_core.errors import StoreError
from tests.lens_core.cache_files import one_line


def test_the_cache_directory_is_made_where_the_user_wants_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QLENS_CACHE_DIR", str(tmp_path / "a" / "b"))
    assert cache_dir() == tmp_path / "a" / "b"
    assert cache_dir().is_dir()

    monkeypatch.delenv("QLENS_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir().is_relative_to(tmp_path)
    assert cache_dir().name == "qlens"


@pytest.mark.parametrize("place", ["{file}", "{file}/below", "/proc/qlens"])
def test_an_unusable_cache_directory_gets_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("QLENS_CACHE_DIR", place.format(file=file))

    with pytest.raises(StoreError) as refused:
        cache_dir()

    assert "set QLENS_CACHE_DIR" in one_line(refused)
    assert place.format(file=file) in str(refused.value)


def test_a_cache_directory_that_cannot_be_written_gets_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QLENS_CACHE_DIR", str(tmp_path))
    if os.geteuid() == 0:  # no mode bits stop root
        monkeypatch.setattr(os, "access", lambda *_: False)
    tmp_path.chmod(0o500)

    with pytest.raises(StoreError, match="cannot write to cache directory"):
        cache_dir()
