"""Checksum lists, ours and other tools', detect damage without false alarms."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lens_core.errors import DamagedError, QlensWarning, StoreError
from lens_core.storage.checksum_lists import read_checksums, verify_checksums, write_checksums
from tests.lens_core.cache_files import one_line

A, B = b"weights", b"{}"


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sae_weights.safetensors").write_bytes(A)
    (tmp_path / "cfg.json").write_bytes(B)
    return tmp_path


def _list(folder: Path, *lines: str, end: str = "\n") -> None:
    (folder / "SHA256SUMS").write_bytes("".join(line + end for line in lines).encode())


def _passes(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        verify_checksums(folder)


FORMS: dict[str, Callable[[str, str], str]] = {
    "GNU text": lambda name, digest: f"{digest}  {name}",
    "GNU binary": lambda name, digest: f"{digest} *{name}",
    "GNU in capitals": lambda name, digest: f"{digest.upper()}  {name}",
    "GNU with the folder": lambda name, digest: f"{digest}  ./{name}",
    "GNU escaped": lambda name, digest: f"\\{digest}  {name}",
    "BSD": lambda name, digest: f"SHA256 ({name}) = {digest}",
    "OpenSSL": lambda name, digest: f"SHA256({name})= {digest}",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_every_form_of_a_list_is_checked(folder: Path, form: str, end: str) -> None:
    cfg = FORMS[form]("cfg.json", _sum(B))
    comments = ("# sums of a release", "", "; of yesterday")
    _list(folder, *comments, FORMS[form]("sae_weights.safetensors", _sum(A)), cfg, end=end)
    _passes(folder)

    _list(folder, FORMS[form]("sae_weights.safetensors", _sum(b"others")), cfg, end=end)
    with pytest.raises(DamagedError, match=r"sae_weights\.safetensors is damaged") as refused:
        verify_checksums(folder)
    one_line(refused)


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="no sha256sum")
@pytest.mark.parametrize("more", [[], ["--tag"], ["--binary"]])
def test_lists_of_the_usual_tool_are_read_and_ours_by_it(folder: Path, more: list[str]) -> None:
    (folder / "a\nb \\ c").write_bytes(b"odd")
    names = sorted(path.name for path in folder.iterdir())
    made = subprocess.run(
        ["sha256sum", *more, *names], cwd=folder, capture_output=True, check=True
    ).stdout
    (folder / "SHA256SUMS").write_bytes(made)

    listed, unread = read_checksums(folder)

    assert unread == 0
    assert dict(listed) == {name: _sum((folder / name).read_bytes()) for name in names}
    _passes(folder)


def test_our_lists_are_read_by_the_usual_tool(folder: Path) -> None:
    write_checksums(folder)
    _passes(folder)
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=folder, check=True)


def test_lines_that_are_no_checksums_are_said_and_are_no_damage(folder: Path) -> None:
    _list(folder, "SHA256 (cfg.json) = abc")
    with pytest.warns(QlensWarning, match=r"1 of 1 lines of .*SHA256SUMS are not SHA-256"):
        verify_checksums(folder)

    _list(folder, "SHA256 (cfg.json) = abc", f"{_sum(A)}  sae_weights.safetensors")
    with pytest.warns(QlensWarning, match="1 of 2 lines"):
        verify_checksums(folder)

    # What is read is still checked.
    _list(folder, "garbage", f"{_sum(b'x')}  sae_weights.safetensors", f"{_sum(B)}  cfg.json")
    with pytest.warns(QlensWarning), pytest.raises(DamagedError):
        verify_checksums(folder)


def test_a_list_of_another_folder_is_not_called_damage(folder: Path) -> None:
    _list(folder, f"{_sum(b'1')}  sae_weights.safetensors", f"{_sum(b'2')}  cfg.json")
    with pytest.warns(QlensWarning, match="matches none of the 2 files"):
        verify_checksums(folder)

    _list(folder, f"{_sum(b'1')}  layer_3/cfg.json", f"{_sum(b'2')}  README.md")
    _passes(folder)


def test_one_file_that_does_not_fit_is_refused_without_a_verdict(folder: Path) -> None:
    _list(folder, f"{_sum(b'1')}  cfg.json")
    with pytest.raises(DamagedError, match=r"cfg\.json is not what .*, or remove SHA256SUMS") as no:
        verify_checksums(folder)
    assert "damaged" not in one_line(no)


def test_a_list_never_leads_out_of_its_folder(folder: Path) -> None:
    below = folder / "below"
    below.mkdir()
    _list(below, f"{_sum(b'1')}  ../cfg.json", f"{_sum(b'1')}  {folder}/cfg.json")
    _passes(below)


def test_no_list_and_a_directory_in_its_place(folder: Path) -> None:
    assert read_checksums(folder) == ([], 0)
    _passes(folder)
    (folder / "SHA256SUMS").mkdir()
    with pytest.raises(StoreError, match=r"cannot read .*SHA256SUMS: Is a directory"):
        verify_checksums(folder)


@given(st.binary(max_size=300))
def test_no_content_of_a_list_is_a_defect(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "SHA256SUMS").write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        verify_checksums(folder)
