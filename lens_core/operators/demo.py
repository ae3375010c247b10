"""Operators that come with qlens: enough for an instant first look at the demo.

For the layers of the demo's dictionaries, on the demo's reference: both transitions and
both first-order sums in float16, and each feature's stability and scales. Whatever needs
single blocks or halves of the reference is computed directly. Built operators
(`lens_core.operators.files`) replace these as soon as they exist.

They are matched by content: the weights and the reference must be those they were made for,
and the numbers are looked up by the dictionary's checksum. `lens_core.operators.write_demo`
writes them; reading costs 8 MB and a checksum.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from lens_core.errors import DamagedError, OperatorError, StoreError
from lens_core.storage.tensors import open_tensors
from lens_core.terms import Bucket, OperatorSource, Side

FORMAT = 1
DEMO = Path(__file__).parent.parent / "data" / "demo"
OPERATORS, FEATURES = "operators.safetensors", "features.safetensors"
MADE_FOR = "operators.json"


class ShippedOperators:
    """Mean operators at some sites; like `Operators`, but without halves and single blocks."""

    origin: OperatorSource = "shipped"
    has_blocks = False
    has_buckets = False
    stored_dtype = torch.float16

    def __init__(self, directory: Path, device: torch.device | str, dtype: torch.dtype) -> None:
        self.directory = directory
        self._device, self._dtype = torch.device(device), dtype
        with _reading(directory), open_tensors(directory / OPERATORS) as file:
            file.verify()
            self.about = file.metadata
            self._kept = {name: file.get(name).to(self._device, dtype) for name in file.keys()}  # noqa: SIM118

    @property
    def fingerprint(self) -> str:
        """Sha256 of the operators' inputs, method and content."""
        return self.about["operators"]

    def covers(self, side: str, site: int) -> bool:
        """Whether they carry the features of a dictionary at `site`."""
        return f"{side}-{site}" in self._kept

    def value(self, site: int) -> Float[Tensor, "d_model d_model"]:
        """`T_value[site]`."""
        return self._get(f"value-{site}")

    def key(self, site: int) -> Float[Tensor, "d_model d_model"]:
        """`T_key[site]`."""
        return self._get(f"key-{site}")

    def transition(
        self, side: Side, site: int, positions: Bucket = "all"
    ) -> Float[Tensor, "d_model d_model"]:
        """`T_value[site]` or `T_key[site]`; positions are not distinguished."""
        if positions != "all":
            raise OperatorError(
                "the operators that come with qlens do not distinguish positions: "
                "run `qlens build`, or use --method direct"
            )
        return self._get(f"{side}-{site}")

    def first_order(
        self, side: str, site: int, off: frozenset[int] = frozenset()
    ) -> Float[Tensor, "d_model d_model"]:
        """`I + sum R[k]` over all blocks of the path; blocks cannot be switched `off`."""
        if off:
            raise OperatorError(
                "the operators that come with qlens do not separate blocks: "
                "run `qlens build`, or use --method direct"
            )
        return self._get(f"first_order_{side}-{site}")

    def halves(self, side: str, site: int) -> list[Float[Tensor, "d_model d_model"]]:
        """Always empty; `stability` holds the numbers that halves would give."""
        return []

    def demand_sums(self, site: int) -> None:
        """Nothing to check: there are no halves, and `stability` is stored."""

    def stability(self, side: str, dictionary: str, k: int) -> Float[Tensor, " n_features"] | None:
        """Split-half stability of Query Lens's lists of `k`, by the dictionary's checksum."""
        return self._number(dictionary, f"{side}_stability_{k}")

    def scale(
        self, side: str, transition: str, dictionary: str
    ) -> Float[Tensor, " n_features"] | None:
        """What search divides by (`lens_core.feature_scores`), by the dictionary's checksum."""
        return self._number(dictionary, f"{side}_scale_{transition}")

    def _number(self, dictionary: str, name: str) -> Tensor | None:
        found = self._numbers.get(f"{dictionary}.{name}")
        return None if found is None else found.to(self._device, self._dtype)

    @cached_property
    def _numbers(self) -> Mapping[str, Tensor]:
        with _reading(self.directory), open_tensors(self.directory / FEATURES) as file:
            file.verify()
            if file.metadata.get("operators") != self.fingerprint:
                raise DamagedError(f"{file.path} belongs to other operators")
            return {name: file.get(name) for name in file.keys()}  # noqa: SIM118

    def _get(self, name: str) -> Tensor:
        return self._kept[name]


class _reading:  # noqa: N801 (reads as a statement)
    """Turn errors about a damaged or missing installed file into one line that names the fix."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, StoreError):
            raise StoreError(
                f"a file that comes with qlens is damaged ({error}): install qlens again"
            ) from error


def shipped_operators(
    model_fingerprint: str,
    reference_sha256: str,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    directory: Path = DEMO,
) -> ShippedOperators | None:
    """The operators that come with qlens, if they are of these weights and this reference.

    A small file next to them says what they were made for, so that a session on another model
    reads only that.
    """
    try:
        of = json.loads((directory / MADE_FOR).read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StoreError(
            f"a file that comes with qlens is damaged ({directory / MADE_FOR}): install qlens again"
        ) from error
    if of != {"format": FORMAT, "model": model_fingerprint, "reference": reference_sha256}:
        return None
    return ShippedOperators(directory, device, dtype)
