"""The `d x d` operators of every site: the transitions of Query Lens as matrices.

    T_value[site] = 1/N sum_{b,s,s'} d h_final[b,s] / d h_site[b,s']
    T_key[site]   = 1/N sum_{b,s,s'} d h_site[b,s'] / d h_0[b,s]
    R[block]      = 1/N sum_{b,s,s'} d block_out[b,s] / d block_in[b,s']

The mean of the transported vector is linear in the feature, with the same map for all
features (docs/method.md, section 3), so these matrices serve every feature of every dictionary of
a model. On disk are *sums*, for the two halves of the reference and, for the transitions, two
buckets of the feature's position, with the counts to divide by; and the means, which the
lens reads. Reading a site costs its size and a checksum, once.
"""

from __future__ import annotations

import warnings
from contextlib import suppress
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from lens_core.errors import DamagedError, OperatorError, QlensWarning, StoreError, UsageError
from lens_core.operators.contents import is_usable, set_aside
from lens_core.operators.manifest import examine_manifest, write_manifest
from lens_core.operators.passes import N_BUCKETS
from lens_core.operators.plan import DTYPES, mean_file, sums_file
from lens_core.operators.sums import demand_ours, restore_means
from lens_core.storage.files import remove
from lens_core.storage.tensors import open_tensors
from lens_core.terms import Bucket, OperatorSource, Side

# Half operators are two matrices per side; only those of the last site are kept.
_HALVES_KEPT = 8


class Operators:
    """Finished operators, read from disk tensor by tensor and kept once read.

    Matrices act on column vectors: a value is carried by `T_value[site] @ v`, a key by
    `k @ T_key[site]`.
    """

    origin: OperatorSource = "built"
    has_blocks = True
    has_buckets = True

    def __init__(
        self,
        directory: Path,
        device: torch.device | str = "cpu",
        *,
        expected: str | None = None,
        writable: bool = True,
    ) -> None:
        """Open the operators in `directory`.

        `expected` is the fingerprint that they must have (`None`: any);
        `writable` is false for another user's cache, where nothing is repaired.
        """
        self.directory = directory
        plan, wrong = examine_manifest(directory)
        if plan is None:
            raise OperatorError(f"{wrong}: run `qlens build` first")
        if wrong and writable:
            with suppress(StoreError):
                write_manifest(plan, directory)
        self.plan = plan
        if expected is not None and self.plan.fingerprint != expected:
            raise OperatorError(
                f"{directory} holds operators of another model, reference or version: remove it"
            )
        if not is_usable(directory):
            raise OperatorError(f"the operators in {directory} are not finished: run `qlens build`")
        self.device = torch.device(device)
        self.n_blocks = self.plan.n_blocks
        self.d_model = self.plan.d_model
        self._writable = writable
        self._kept: dict[tuple[str, int], Tensor] = {}
        self._verified: dict[int, dict[str, Tensor]] = {}
        self._first_order: dict[tuple[str, int], Tensor] = {}
        self._halves: dict[tuple[str, int], list[Tensor]] = {}
        self._buckets: dict[tuple[str, int], list[Tensor | None]] = {}

    @property
    def stored_dtype(self) -> torch.dtype:
        """The dtype of the matrices on disk."""
        return DTYPES[self.plan.dtype]

    @property
    def fingerprint(self) -> str:
        """The fingerprint of what the operators were made from."""
        return self.plan.fingerprint

    def covers(self, side: str, site: int) -> bool:
        """Whether they carry features at `site`; always true, they cover every site."""
        return True

    def value(self, site: int) -> Float[Tensor, "d_model d_model"]:
        """`T_value[site]`."""
        return self._mean("value", site)

    def key(self, site: int) -> Float[Tensor, "d_model d_model"]:
        """`T_key[site]`."""
        return self._mean("key", site)

    def transition(
        self, side: Side, site: int, positions: Bucket = "all"
    ) -> Float[Tensor, "d_model d_model"]:
        """`T_value[site]` or `T_key[site]`, for features at these positions of a sample.

        Raises:
            UsageError: the reference has no such positions.
        """
        if positions == "all":
            return self._mean(side, site)
        if self.plan.is_last_only:
            raise UsageError(
                f"a reference of short texts has no {positions} positions: ask for all"
            )
        found = self.buckets(side, site)[("early", "late").index(positions)]
        if found is None:
            raise UsageError(
                f"the reference has no {positions} positions: its samples are too short"
            )
        return found

    def response(self, block: int) -> Float[Tensor, "d_model d_model"]:
        """`R[block]`."""
        return self._mean("response", block)

    def _mean(self, name: str, site: int) -> Tensor:
        if (name, site) not in self._kept:
            # On a CPU the tensors are memory-mapped from the file; a GPU gets copies.
            self._kept[name, site] = self._means(site)[name].to(self.device)
        return self._kept[name, site]

    def _means(self, site: int) -> dict[str, Tensor]:
        if site not in self._verified:
            try:
                found = self._read(self.directory / mean_file(site), site)
            except DamagedError:
                try:
                    found = restore_means(self.directory, self.plan, site, write=self._writable)
                except DamagedError as error:
                    if self._writable:
                        remove(self.directory / mean_file(site))
                    raise self._lost(site, error) from error
            self._verified[site] = found
        return self._verified[site]

    def first_order(
        self, side: str, site: int, off: frozenset[int] = frozenset()
    ) -> Float[Tensor, "d_model d_model"]:
        """`I + sum R[k]` over the blocks after (`value`) or before (`key`) `site`, except `off`."""
        blocks = range(site, self.n_blocks) if side == "value" else range(site)
        if (side, site) not in self._first_order:
            eye = torch.eye(self.d_model, dtype=DTYPES[self.plan.dtype], device=self.device)
            self._first_order[side, site] = eye + sum(self.response(k) for k in blocks)
        total = self._first_order[side, site]
        silenced = off & set(blocks)
        return total - sum(self.response(k) for k in silenced) if silenced else total

    def halves(self, side: str, site: int) -> list[Float[Tensor, "d_model d_model"]]:
        """The transition of each half of the reference (a single one for a single sample).

        Empty, with a warning, if the sums are damaged or missing; the means are still used.
        """
        if (side, site) not in self._halves:
            tokens = self.plan.tokens.sum(1)
            try:
                sums = self._sums(site)[side].double().sum(1)
            except OperatorError as error:
                warnings.warn(f"stability is not known: {error}", QlensWarning, stacklevel=2)
                self._halves[side, site] = []
                return []
            self._halves[side, site] = [
                (sums[half] / tokens[half]).to(DTYPES[self.plan.dtype]).to(self.device)
                for half in range(2)
                if tokens[half] > 0
            ]
            while len(self._halves) > _HALVES_KEPT:
                del self._halves[next(iter(self._halves))]
        return self._halves[side, site]

    def stability(self, side: str, dictionary: str, k: int) -> Float[Tensor, " n_features"] | None:
        """`None`: not stored, but computed from `halves` if the reference has two."""
        return None

    def scale(
        self, side: str, transition: str, dictionary: str
    ) -> Float[Tensor, " n_features"] | None:
        """`None`: not stored, but computed by the first search."""
        return None

    def buckets(self, side: str, site: int) -> list[Float[Tensor, "d_model d_model"] | None]:
        """The transitions for features before and from position 16, each over its own tokens.

        `None` for a bucket without positions in the reference.
        """
        if (side, site) not in self._buckets:
            tokens = self.plan.tokens.sum(0)
            sums = self._sums(site)[side].double().sum(0)
            dtype = DTYPES[self.plan.dtype]
            self._buckets[side, site] = [
                (sums[bucket] / tokens[bucket]).to(dtype).to(self.device)
                if tokens[bucket]
                else None
                for bucket in range(N_BUCKETS)
            ]
            while len(self._buckets) > _HALVES_KEPT:
                del self._buckets[next(iter(self._buckets))]
        return self._buckets[side, site]

    def demand_sums(self, site: int) -> None:
        """Check that the sums, which hold the two halves, can be read.

        Raises:
            OperatorError: the sums of `site` are missing or damaged.
        """
        self._sums(site)

    def _sums(self, site: int) -> dict[str, Tensor]:
        try:
            return self._read(self.directory / sums_file(site), site)
        except DamagedError as error:
            raise self._lost(site, error) from error

    def _lost(self, site: int, error: DamagedError) -> OperatorError:
        if self._writable:
            set_aside(self.directory, site)
        fix = "run" if self._writable else "ask its owner to run"
        return OperatorError(
            f"the operators at site {site} are damaged ({error}): {fix} `qlens build` again"
        )

    def _read(self, path: Path, site: int) -> dict[str, Tensor]:
        with open_tensors(path) as file:
            file.verify()
            demand_ours(file, self.plan, site)
            return {name: file.get(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
