"""Tensors on disk as safetensors, each file with a checksum of its content.

    sha256( metadata as JSON | for each tensor by name: name, type, shape | its bytes )

The checksum is in the metadata, so that a copied file can still be checked. The same tensors
and metadata give the same bytes in every process.

Cost: hashing, about 1 s per GiB. torch and safetensors are imported by the functions that
need them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lens_core.errors import DamagedError, StoreError, cannot_read, one_line
from lens_core.storage.files import replacing, told_by_the_system

if TYPE_CHECKING:
    import torch


def write_tensors(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> str:
    """Write a safetensors file atomically; returns its checksum.

    The checksum covers names, types, shapes, bytes and metadata, and is stored in
    the metadata under "sha256".
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    if "sha256" in metadata:
        raise ValueError('metadata "sha256" is reserved for the checksum')
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    checksum = _checksum(sorted(plain.items()), metadata)
    with replacing(path, _bytes_of(plain)) as temporary:
        try:
            with told_by_the_system():
                save_file(plain, temporary, {**metadata, "sha256": checksum})
        except SafetensorError as error:
            raise StoreError(f"cannot write {path}: {one_line(error)}") from error
        _sort_metadata(temporary)
    return checksum


class TensorFile:
    """An open safetensors file; tensors are read on demand."""

    def __init__(self, path: Path, device: str = "cpu") -> None:
        from safetensors import SafetensorError, safe_open

        self.path = path
        try:
            self._file: Any = safe_open(path, framework="pt", device=device)
        except FileNotFoundError:
            raise DamagedError(f"no such file: {path}") from None
        except OSError as error:
            if path.is_dir():  # safetensors has no clear error for a directory
                raise DamagedError(f"cannot read {path}: Is a directory") from None
            raise cannot_read(error, path) from None
        except SafetensorError as error:
            raise DamagedError(f"{path} is damaged or not finished: {one_line(error)}") from None

    @cached_property
    def metadata(self) -> dict[str, str]:
        return dict(self._file.metadata() or {})

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.__exit__(None, None, None)

    def keys(self) -> list[str]:
        return sorted(self._file.keys())

    def get(self, name: str) -> torch.Tensor:
        from safetensors import SafetensorError

        try:
            tensor: torch.Tensor = self._file.get_tensor(name)
        except SafetensorError as error:
            raise DamagedError(f"{self.path} has no readable {name}: {one_line(error)}") from None
        return tensor

    def verify(self) -> None:
        """Raise `StoreError` unless the file matches its checksum."""
        metadata = dict(self.metadata)
        written = metadata.pop("sha256", None)
        if written is None:
            raise DamagedError(f"{self.path} carries no checksum: it cannot be trusted")
        if _checksum(((name, self.get(name)) for name in self.keys()), metadata) != written:
            raise DamagedError(f"{self.path} is damaged: its checksum does not match")


def open_tensors(path: Path, *, device: str = "cpu") -> TensorFile:
    """Open a safetensors file; a missing, truncated or garbled one is a `StoreError`.

    This reads only the header: call `verify` before using the content.
    """
    return TensorFile(path, device)


def verify_tensors(path: Path) -> None:
    """Raise `StoreError` unless the file matches the checksum that `write_tensors` stored."""
    with open_tensors(path) as file:
        file.verify()


def _bytes_of(tensors: Mapping[str, torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def _sort_metadata(path: Path) -> None:
    """Sort the header, because safetensors writes its metadata in random order.

        8 bytes: the length of the header | JSON, padded with blanks | the tensors' bytes

    The length stays the same, and with it every offset.
    """
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        assert len(text) <= length, "the same JSON, without blanks"
        file.seek(8)
        file.write(text.ljust(length))


def _checksum(tensors: Iterable[tuple[str, torch.Tensor]], metadata: Mapping[str, str]) -> str:
    import torch

    whole = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name, tensor in tensors:
        described = [name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
        whole.update(json.dumps(described).encode())
        whole.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()
