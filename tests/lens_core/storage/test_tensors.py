"""Tensors are read back bit for bit, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from lens_core.errors import StoreError
from lens_core.storage.tensors import open_tensors, verify_tensors, write_tensors
from tests.lens_core.cache_files import one_line


def _tensors() -> dict[str, torch.Tensor]:
    stacked = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    return {
        "double": torch.tensor([0.1, -0.0, 1e300], dtype=torch.float64),
        "short": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "flags": torch.tensor([[True, False]]),
        "ids": torch.tensor([1 << 40]),
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 5),
        "transposed": stacked[0].T,
        "view": stacked[0],
        "neighbour": stacked[1],
        "trained": torch.ones(2, requires_grad=True),
    }


def test_tensors_come_back_to_the_bit_with_their_metadata(tmp_path: Path) -> None:
    path = tmp_path / "new" / "operators.safetensors"
    tensors = _tensors()

    checksum = write_tensors(path, tensors, {"model": "é\n", "convention": "paper"})

    verify_tensors(path)
    with open_tensors(path) as file:
        assert file.metadata == {"model": "é\n", "convention": "paper", "sha256": checksum}
        assert file.keys() == sorted(tensors)
        for name, tensor in tensors.items():
            assert file.get(name).dtype == tensor.dtype
            assert torch.equal(file.get(name), tensor.detach())
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_the_checksum_depends_on_the_content_alone(tmp_path: Path) -> None:
    tensors = _tensors()
    backwards = dict(reversed(tensors.items()))

    one = write_tensors(tmp_path / "one", tensors, {"a": "1", "b": "2"})

    assert write_tensors(tmp_path / "two", backwards, {"b": "2", "a": "1"}) == one
    assert write_tensors(tmp_path / "two", tensors, {"a": "1", "b": "3"}) != one
    flags = tensors["flags"]
    for changed in (
        {**tensors, "double": tensors["double"] + 1e-15},
        {**tensors, "flags": flags.to(torch.uint8)},
        {**tensors, "flags": flags.T},
        {("other" if name == "flags" else name): t for name, t in tensors.items()},
    ):
        assert write_tensors(tmp_path / "two", changed, {"a": "1", "b": "2"}) != one


@settings(deadline=None)
@given(data=st.data())
def test_any_changed_byte_of_a_tensor_file_is_found(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "changed.safetensors"
    write_tensors(path, {"a": torch.arange(6.0), "b": torch.ones(2)}, {"model": "m"})
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    # Blanks that pad the header carry nothing.
    assume(content[at] != ord(" "))
    content[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)

    with pytest.raises(StoreError) as refused:
        verify_tensors(path)
    one_line(refused)


@settings(deadline=None)
@given(st.data())
def test_a_truncated_tensor_file_does_not_open(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "truncated.safetensors"
    write_tensors(path, {"a": torch.arange(6.0)}, {})
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])

    with pytest.raises(StoreError, match="is damaged or not finished"):
        open_tensors(path)


def test_a_file_that_is_no_tensor_file_gets_one_line(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello, this is no safetensors file at all")
    with pytest.raises(StoreError, match="is damaged or not finished"):
        open_tensors(tmp_path / "text")
    with pytest.raises(StoreError, match="no such file"):
        open_tensors(tmp_path / "absent")
    with pytest.raises(StoreError, match="cannot read"):
        open_tensors(tmp_path)


def test_an_unknown_tensor_and_a_missing_checksum_are_named(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "foreign.safetensors")

    with open_tensors(tmp_path / "foreign.safetensors") as file:
        with pytest.raises(StoreError, match="has no readable nothing"):
            file.get("nothing")
        with pytest.raises(StoreError, match="carries no checksum"):
            file.verify()


def test_the_checksums_place_in_the_metadata_is_taken(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sha256"):
        write_tensors(tmp_path / "t", {}, {"sha256": "mine"})
