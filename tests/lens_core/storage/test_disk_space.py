"""A build checks the free disk space before it starts."""

import shutil
from collections import namedtuple

import pytest

from lens_core.errors import StoreError
from lens_core.storage.disk_space import demand_space, size_of

Disk = namedtuple("Disk", "total used free")


@pytest.fixture
def half_built(tmp_path, monkeypatch):
    """A build of 600 bytes on a disk with 1000 bytes free."""
    monkeypatch.setenv("QLENS_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(1 << 20, 0, 1000))
    (tmp_path / "units").mkdir()
    (tmp_path / "units" / "one").write_bytes(b"x" * 600)
    return tmp_path


def test_what_is_needed_and_free_and_the_difference_are_said(half_built):
    assert size_of(half_built) == 600
    demand_space(half_built, 1000)
    with pytest.raises(StoreError, match=r"needs 1001 B more, 1000 B free: free 1 B, or set QLENS"):
        demand_space(half_built, 1001)


def test_a_directory_that_is_still_to_be_made_is_on_its_parent_s_disk(half_built):
    absent = half_built / "a" / "b"
    assert size_of(absent) == 0
    demand_space(absent, 1000)
    with pytest.raises(StoreError, match=f"no space left in {absent}: .*1000 B free"):
        demand_space(absent, 1001)
