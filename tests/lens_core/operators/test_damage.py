"""After damage to any file of finished operators, only the lost parts are computed again."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from lens_core.errors import OperatorError, QlensWarning
from lens_core.operators.build import assemble, begin, build_operators, finish, import_units
from lens_core.operators.contents import is_complete, is_usable
from lens_core.operators.files import Operators
from lens_core.operators.manifest import read_manifest, write_manifest
from lens_core.operators.plan import plan_build
from lens_core.operators.verify import lacks, verify_operators
from lens_core.reference import ReferenceSample
from lens_core.storage.tensors import open_tensors, write_tensors
from tests.prepared import prepared
from tests.toys import MixingToy

ROWS = 2
UNITS = 2 * 3 * 3  # halves, families, and 2 + 2 + 1 of 5 rows


def _reference() -> ReferenceSample:
    tokens = torch.randint(0, 101, (5, 19), generator=torch.Generator().manual_seed(7))
    return ReferenceSample(tokens=tokens, origin="test")


def _build(folder: Path, reference: ReferenceSample | None = None) -> Path:
    """Finished operators in a directory of their fingerprint, as in a cache."""
    toy, reference = MixingToy(), reference or _reference()
    plan = dataclasses.replace(plan_build(toy, "weights", reference, batch=2), rows_per_unit=ROWS)
    directory = folder / plan.fingerprint
    build_operators(toy, reference, plan, directory)
    assemble(directory)
    return directory


def _build_again(directory: Path) -> int:
    """Build as `qlens build` does; returns the computed units."""
    toy, reference = MixingToy(), _reference()
    work = begin(toy, "weights", reference, directory, batch=2)
    build_operators(toy, reference, work.plan, directory)
    assert finish(directory) == []
    return len(work.units) - len(work.delivered)


def _content(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name != "build.lock"
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _build(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def place(whole: Path, tmp_path: Path) -> Path:
    """A copy to damage, in a directory of its fingerprint."""
    return Path(shutil.copytree(whole, tmp_path / whole.name))


def _flip(path: Path, at: int, bits: int = 1) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= bits
    path.write_bytes(content)


def _made_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "something").write_text("in it")


HARM: dict[str, Callable[[Path], None]] = {
    "flipped": lambda path: _flip(path, -3),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "empty": lambda path: path.write_bytes(b""),
    "gone": Path.unlink,
    "a directory": _made_a_directory,
    "text": lambda path: path.write_text("hello"),
}
harms = pytest.mark.parametrize("harm", HARM)


@harms
@pytest.mark.parametrize("repair", ["verify", "read", "build"])
def test_lost_means_are_rewritten_from_the_sums_without_a_pass(
    whole: Path, place: Path, harm: str, repair: str
) -> None:
    for site in (0, 3):
        HARM[harm](place / f"mean-{site:03d}.safetensors")

    assert is_usable(place)
    if repair == "verify":
        found = verify_operators(place, repair=False)
        assert {each.path.name for each in found} == {
            "mean-000.safetensors",
            "mean-003.safetensors",
        }
        assert all(each.remains for each in found)
        assert [e.outcome for e in verify_operators(place, repair=True)] == [
            "rewritten from the sums"
        ] * 2
    elif repair == "read":
        operators = Operators(place, expected=place.name)
        for site in (0, 3):
            operators.value(site)
    else:
        assert _build_again(place) == 0

    assert _content(place) == _content(whole)
    assert verify_operators(place, repair=False) == []


@harms
def test_lost_sums_leave_the_means_in_use_and_a_build_makes_them_again(
    whole: Path, place: Path, harm: str
) -> None:
    HARM[harm](place / "sums-002.safetensors")
    expected = Operators(whole).value(2)

    if harm == "gone":
        assert verify_operators(place, repair=True) == []
    else:
        (found,) = verify_operators(place, repair=False)
        assert found.remains
        assert "run `qlens build`" in found.fix
        (found,) = verify_operators(place, repair=True)
        assert found.outcome == ("set aside" if harm == "flipped" else "removed")
    assert "run `qlens build`" in lacks(place)
    operators = Operators(place, expected=place.name)
    assert torch.equal(operators.value(2), expected)
    with pytest.warns(QlensWarning, match="stability is not known"):
        assert operators.halves("value", 2) == []
    assert len(operators.halves("value", 1)) == 2
    assert verify_operators(place, repair=True) == []
    assert _build_again(place) == (1 if harm == "flipped" else UNITS)
    assert _content(place) == _content(whole)


@harms
def test_a_lost_manifest_is_written_again_from_the_other_files(
    whole: Path, place: Path, harm: str
) -> None:
    HARM[harm](place / "manifest.json")

    assert is_complete(place)
    (found,) = verify_operators(place, repair=False)
    assert found.path.name == "manifest.json"
    assert found.remains
    (found,) = verify_operators(place, repair=True)
    assert found.outcome == "rewritten from the files beside it"
    assert _content(place) == _content(whole)


def test_opening_operators_writes_a_lost_manifest_again(whole: Path, place: Path) -> None:
    (place / "manifest.json").write_text("{}")

    Operators(place, expected=place.name)

    assert _content(place) == _content(whole)


def test_the_manifest_of_another_build_is_noticed_and_replaced(
    whole: Path, place: Path, tmp_path: Path
) -> None:
    other = _build(tmp_path, dataclasses.replace(_reference(), skip_first=1))
    shutil.copy(other / "manifest.json", place)

    assert Operators(place, expected=place.name, writable=False).fingerprint == whole.name
    (found,) = verify_operators(place, repair=True)
    assert "belongs to other operators" in found.reason
    assert _content(place) == _content(whole)


def test_a_sealed_manifest_with_other_numbers_is_noticed(whole: Path, place: Path) -> None:
    """Its seal and its inputs agree; the files say that the reference had other samples."""
    write_manifest(dataclasses.replace(read_manifest(place), samples=7), place)

    assert read_manifest(place).samples == 5
    (found,) = verify_operators(place, repair=True)
    assert found.path.name == "manifest.json"
    assert _content(place) == _content(whole)


def test_a_file_of_other_operators_is_damage_and_made_again(
    whole: Path, place: Path, tmp_path: Path
) -> None:
    other = _build(tmp_path, dataclasses.replace(_reference(), skip_first=1))
    for name in ("mean-001.safetensors", "sums-003.safetensors"):
        shutil.copy(other / name, place)

    found = {each.path.name: each for each in verify_operators(place, repair=True)}

    assert found["mean-001.safetensors"].outcome == "rewritten from the sums"
    assert "belongs to other operators" in found["sums-003.safetensors"].reason
    assert _build_again(place) == UNITS
    assert _content(place) == _content(whole)


@pytest.mark.parametrize("repair", ["verify", "read", "build"])
def test_a_file_of_another_site_is_damage(whole: Path, place: Path, repair: str) -> None:
    shutil.copy(place / "mean-002.safetensors", place / "mean-001.safetensors")

    found = verify_operators(place, repair=repair == "verify")
    assert [(each.path.name, each.reason) for each in found] == [
        (
            "mean-001.safetensors",
            f"{place / 'mean-001.safetensors'} belongs to site 2, not 1",
        )
    ]
    if repair == "read":
        assert torch.equal(Operators(place).value(1), Operators(whole).value(1))
    elif repair == "build":
        assert _build_again(place) == 0
    assert _content(place) == _content(whole)

    shutil.copy(place / "sums-002.safetensors", place / "sums-001.safetensors")
    assert "site 2, not 1" in verify_operators(place, repair=True)[0].reason
    assert _build_again(place) == UNITS
    assert _content(place) == _content(whole)


def test_operators_lack_nothing_if_only_means_are_missing(place: Path) -> None:
    (place / "mean-001.safetensors").unlink()
    assert lacks(place) == ""
    (place / "sums-002.safetensors").unlink()
    assert "lacks sums" in lacks(place)


@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_any_flipped_bit_is_found_and_costs_at_most_the_units_that_it_hit(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    place = Path(shutil.copytree(whole, tmp_path_factory.mktemp("flipped") / whole.name))
    names = sorted(path.name for path in place.iterdir() if path.is_file())
    path = place / data.draw(st.sampled_from(names))
    at = data.draw(st.integers(0, path.stat().st_size - 1))
    # Blanks that pad a header or indent the manifest carry nothing.
    assume(path.read_bytes()[at : at + 1] not in (b" ", b"\n"))
    _flip(path, at, data.draw(st.integers(1, 255)))

    found = verify_operators(place, repair=True)

    assert [each.path for each in found] == [path]
    assert not found[0].remains
    header = int.from_bytes((whole / path.name).read_bytes()[:8], "little") + 8
    if path.name.startswith("sums") and at >= header:
        assert _build_again(place) == 1
    else:
        site = int(path.name[5:8]) if path.name.startswith("sums") else 0
        assert _build_again(place) in (0, 1, len(read_manifest(place).units_of(site)))
    assert _content(place) == _content(whole)
    shutil.rmtree(place)


def test_damage_in_several_places_at_once_is_repaired_at_once(whole: Path, place: Path) -> None:
    HARM["empty"](place / "manifest.json")
    HARM["flipped"](place / "mean-001.safetensors")
    HARM["flipped"](place / "sums-001.safetensors")
    HARM["flipped"](place / "mean-004.safetensors")
    HARM["gone"](place / "sums-000.safetensors")

    verify_operators(place, repair=True)

    assert not is_usable(place)  # nothing answers at site 1
    assert _build_again(place) == UNITS
    assert _content(place) == _content(whole)


def test_a_build_finds_damage_that_nobody_looked_for(whole: Path, place: Path) -> None:
    HARM["flipped"](place / "sums-003.safetensors")

    assert _build_again(place) == 1
    assert _content(place) == _content(whole)


@harms
def test_a_lost_manifest_of_a_build_that_goes_on_costs_no_unit(
    whole: Path, tmp_path: Path, harm: str
) -> None:
    toy, reference = MixingToy(), _reference()
    place = tmp_path / whole.name
    build_operators(toy, reference, read_manifest(whole), place, shard=(1, 2))
    HARM[harm](place / "manifest.json")

    (found,) = verify_operators(place, repair=False)
    assert found.path.name == "manifest.json"
    assert _build_again(place) == UNITS // 2
    assert _content(place) == _content(whole)


def test_a_unit_of_another_build_is_not_joined(whole: Path, tmp_path: Path) -> None:
    toy, reference = MixingToy(), _reference()
    other = dataclasses.replace(reference, skip_first=1)
    place, foreign = tmp_path / whole.name, tmp_path / "foreign"
    build_operators(toy, reference, read_manifest(whole), place, shard=(1, 2))
    plan = dataclasses.replace(plan_build(toy, "weights", other), rows_per_unit=ROWS)
    build_operators(toy, other, plan, foreign)
    for unit in (foreign / "units").iterdir():
        shutil.copy(unit, place / "units")

    assert len(verify_operators(place, repair=False)) == UNITS
    assert _build_again(place) == UNITS
    assert _content(place) == _content(whole)


def test_merging_leaves_a_damaged_shard_as_it_is(whole: Path, tmp_path: Path) -> None:
    toy, reference = MixingToy(), _reference()
    source, place = tmp_path / "source" / whole.name, tmp_path / whole.name
    build_operators(toy, reference, read_manifest(whole), source)
    unit = sorted((source / "units").iterdir())[0]
    HARM["cut"](unit)
    before = _content(source)

    assert import_units(source, place) == UNITS - 1
    assert _content(source) == before


@pytest.mark.parametrize("manifest", ["", "{", "[]", '{"format": 0}'])
def test_operators_from_before_files_carried_the_plan_are_not_lost_with_their_manifest(
    whole: Path, place: Path, manifest: str
) -> None:
    for path in place.glob("*.safetensors"):
        with open_tensors(path) as file:
            about = {k: v for k, v in file.metadata.items() if k not in ("plan", "rows", "sha256")}
            tensors = {name: file.get(name).clone() for name in file.keys()}  # noqa: SIM118
        write_tensors(path, tensors, about)
    expected = load_file(place / "mean-001.safetensors")
    (place / "manifest.json").write_text(manifest)

    (found,) = verify_operators(place, repair=True)
    assert "run `qlens build`" in found.fix
    with pytest.raises(OperatorError, match=r"manifest\.json.*run `qlens build` first"):
        Operators(place)
    assert _build_again(place) == 0
    assert torch.equal(Operators(place).value(1), expected["value"])


def test_a_file_that_is_not_of_qlens_is_reported_and_does_not_stop_the_others(
    whole: Path, place: Path
) -> None:
    save_file({"a": torch.ones(2)}, place / "mine.safetensors")
    HARM["flipped"](place / "mean-001.safetensors")

    found = {each.path.name: each.outcome for each in verify_operators(place, repair=True)}

    assert found == {
        "mean-001.safetensors": "rewritten from the sums",
        "mine.safetensors": "removed",
    }
    assert _content(place) == _content(whole)


def test_the_same_build_in_two_processes_gives_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    code = (
        "import sys, torch; from pathlib import Path\n"
        f"torch.set_num_threads({torch.get_num_threads()})  # which decide how sums round\n"
        "from tests.lens_core.operators.test_damage import _build\n"
        "_build(Path(sys.argv[1]))"
    )
    subprocess.run(prepared(code, str(tmp_path)), check=True)

    assert _content(tmp_path / whole.name) == _content(whole)
