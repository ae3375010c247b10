"""The stream that every token of the vocabulary makes behind a few left contexts, at some sites.

    H[site][t] = mean over left contexts c of h_site(c t) at t

For a key there is a direct question: which token drives the feature? These states answer it for
every dictionary that reads a site, with one product (docs/method.md, section 7). They cost
one pass over the vocabulary for each left context, up to the last site: many tokens stand behind
one context in the same row without seeing each other (`lens_core.packing`).

Kept in parts, each of some tokens at one site and written as a whole, so that a run that was
stopped goes on at the next part, and several machines that share a cache can each compute some:

    <cache>/lenses/<fingerprint>/site-22-from-8192.safetensors

float16, with a scale for each token: entries are within 2^-11 of the row's largest. What the states
depend on is in the fingerprint: weights, left contexts, precision, this format and the versions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from lens_core.directories import LENS_FILES, caches
from lens_core.errors import DamagedError, ModelError, OperatorError
from lens_core.memory import Parts, samples_at_once
from lens_core.model import ResidualModel
from lens_core.packing import Packed
from lens_core.storage.disk_space import demand_space
from lens_core.storage.files import build_lock, clear_directory
from lens_core.storage.fingerprint import fingerprint, versions
from lens_core.storage.tensors import open_tensors, write_tensors
from lens_core.terms import Progress

FORMAT = 1
WHOLE = (1, 1)
"""The only shard: number 1 of 1."""
TOKENS_PER_PART = 4096
"""Few enough that an interruption loses little."""
_ROW = 64
"""Tokens of a row: what a text costs is shared, and attention to its row's others is wasted."""
_ALIKE = 1e-3
"""Relative difference that another order of operations makes in float32, and no more."""
# Memory of a pass, in copies of the stream: attention, the hidden layer of an MLP, temporaries.
_WORKING_STREAMS = 24

Tick = Callable[[float], None]
"""Called with the share of a part that is done; may raise to stop."""


class VocabularyStates:
    """The states of a model in a cache or a shared one.

    `contexts` are the tokens of the left contexts, none empty.
    """

    def __init__(
        self, cache: Path, model: ResidualModel, contexts: Sequence[Sequence[int]]
    ) -> None:
        self._cache, self.model = cache, model
        self._layouts: dict[int, Packed | None] = {}
        self.contexts = tuple(map(tuple, contexts))

    @cached_property
    def fingerprint(self) -> str:
        """Names the directory."""
        return fingerprint(
            {
                "kind": "vocabulary states",
                "format": FORMAT,
                "model": self.model.fingerprint,
                "dtype": str(self.model.dtype),
                "contexts": [list(context) for context in self.contexts],
                "versions": versions(),
            }
        )

    @property
    def directory(self) -> Path:
        """Where they are kept."""
        return self._cache / LENS_FILES / self.fingerprint

    def bytes_on_disk(self, sites: int) -> int:
        """What the states at so many sites take."""
        each: int = 2 * self.model.d_model + 4
        return int(sites * self.model.d_vocab * each)

    def has(self, site: int) -> bool:
        """Whether every part of a site is there; reads nothing of them."""
        return self._place(site) is not None

    def at(self, site: int) -> Float[Tensor, "d_vocab d_model"]:
        """The states at a site, on the model's device.

        Raises:
            OperatorError: they are not computed.
            StoreError: a part is damaged.
        """
        place = self._place(site)
        if place is None:
            raise OperatorError(
                f"no states of the vocabulary at site {site}: run `qlens build CONFIG --lens "
                "forward` first"
            )
        rows = []
        for part in self._parts:
            with open_tensors(place / part_file(site, part)) as file:
                scale, found = file.get("scale"), file.get("states")
            if len(found) != len(part) or len(scale) != len(part):
                raise DamagedError(
                    f"{file.path} is not what its name says: run `qlens cache verify`"
                )
            rows.append((found.float() * scale[:, None]).to(self.model.device, self.model.dtype))
        return torch.cat(rows)

    def missing(self, sites: Collection[int], shard: tuple[int, int] = WHOLE) -> list[range]:
        """The tokens of a shard's parts (number, total) that one of `sites` lacks."""
        number, of = shard
        wanted = [site for site in sites if not self.has(site)]
        return [part for part in self._parts[number - 1 :: of] if self._lacking(wanted, part)]

    def _lacking(self, sites: Collection[int], part: range) -> list[int]:
        """Those of `sites` whose part is not in the directory, in order."""
        return [
            site for site in sorted(sites) if not (self.directory / part_file(site, part)).is_file()
        ]

    def build(
        self,
        sites: Collection[int],
        shard: tuple[int, int] = WHOLE,
        *,
        progress: Progress | None = None,
    ) -> int:
        """Compute the parts that are missing; returns how many.

        `progress` is called with tokens done and their total, and may raise to stop: finished parts
        are kept.

        Raises:
            StoreError: another process computes this shard, or the disk is too full.
            ModelError: a state is not finite.
        """
        number, of = shard
        if not self.missing(sites, shard):
            return 0
        self.directory.mkdir(parents=True, exist_ok=True)
        with build_lock(self.directory / "locks" / f"shard-{number}-of-{of}"):
            # Again: another process may just have finished.
            parts = self.missing(sites, shard)
            wanted = [site for site in sites if not self.has(site)]
            done, total = 0, sum(map(len, parts))
            share = total / self.model.d_vocab
            demand_space(self.directory, int(share * self.bytes_on_disk(len(wanted))))
            for part in parts:

                def tick(share: float, before: int = done, rows: int = len(part)) -> None:
                    if progress is not None:
                        progress(before + int(share * rows), total)

                for site, rows in self._computed(part, self._lacking(wanted, part), tick).items():
                    self._write(site, part, rows)
                done += len(part)
        if progress is not None:
            progress(total, total)
        return len(parts)

    @property
    def _parts(self) -> list[range]:
        starts = range(0, self.model.d_vocab, TOKENS_PER_PART)
        return [range(start, min(start + TOKENS_PER_PART, self.model.d_vocab)) for start in starts]

    def _write(self, site: int, part: range, rows: Float[Tensor, "rows d_model"]) -> None:
        if not bool(torch.isfinite(rows).all()):
            raise ModelError(
                f"the states of the vocabulary at site {site} are not finite: the model's weights "
                'or the dtype overflow; try compute.dtype = "float64"'
            )
        path = self.directory / part_file(site, part)
        clear_directory(path)
        scale = rows.abs().amax(1)
        scale = torch.where(scale > 0, scale, 1)
        facts = {
            "kind": "vocabulary states",
            "model": self.model.fingerprint,
            "site": str(site),
            "first": str(part.start),
        }
        kept = {"states": (rows / scale[:, None]).half(), "scale": scale.float()}
        write_tensors(path, kept, facts)

    def _place(self, site: int) -> Path | None:
        """The directory that holds every part of a site."""
        for cache in caches(self._cache):
            directory = cache / LENS_FILES / self.fingerprint
            if all((directory / part_file(site, part)).is_file() for part in self._parts):
                return directory
        return None

    def _computed(
        self, tokens: range, sites: Sequence[int], tick: Tick
    ) -> dict[int, Float[Tensor, "tokens d_model"]]:
        """The states of some tokens at `sites`, which are in order."""
        model, ids = self.model, torch.arange(tokens.start, tokens.stop)
        sums = torch.zeros(len(sites), len(ids), model.d_model, dtype=model.dtype)
        for at, context in enumerate(self.contexts):
            packed = self._packed(context)
            apart = 1 if packed is None else packed.apart
            n_rows = -(-len(ids) // apart)
            filled = torch.cat([ids, ids[:1].expand(n_rows * apart - len(ids))])
            shared = torch.tensor(context).expand(n_rows, -1)
            rows = torch.cat([shared, filled.view(n_rows, apart)], 1)
            # A pass keeps no site but those asked for.
            streams = _WORKING_STREAMS + len(sites)
            each = streams * rows.shape[1] * model.d_model * model.dtype.itemsize
            parts = Parts(samples_at_once(model.device, rows.shape[1], each), model.device)

            def some(
                part: slice, rows: Tensor = rows, at: int = at, packed: Packed | None = packed
            ) -> Tensor:
                tick((at + part.start / len(rows)) / len(self.contexts))
                return self._behind(rows[part], sites, packed)

            found = torch.cat(parts.each(n_rows, some), 1).flatten(1, 2)
            sums += found[:, : len(ids)]
        return dict(zip(sites, sums / len(self.contexts), strict=True))

    def _packed(self, context: Sequence[int]) -> Packed | None:
        """How rows behind `context` are packed; `None`: one token each.

        A model whose attention does not obey the mask (it has a window shorter than the context,
        or makes its own) would see the other tokens: then packed rows differ from plain ones.
        """
        shared = len(context)
        if shared not in self._layouts:
            packed = Packed(shared, max(1, _ROW - shared))
            ids = torch.arange(packed.apart) * 7 % self.model.d_vocab
            together = self.model.sites(
                torch.cat([torch.tensor(context), ids])[None], packed=packed
            )
            alone = self.model.sites(torch.tensor([[*context, int(ids[-1])]]))
            is_alike = all(
                float((one[0, -1] - other[0, -1]).norm()) <= _ALIKE * float(other[0, -1].norm())
                for one, other in zip(together, alone, strict=True)
            )
            self._layouts[shared] = packed if is_alike else None
        return self._layouts[shared]

    @torch.no_grad()
    def _behind(
        self, rows: Int64[Tensor, "rows length"], sites: Sequence[int], packed: Packed | None
    ) -> Float[Tensor, "sites rows apart d_model"]:
        """The stream of every token behind the context, on the CPU."""
        model = self.model
        apart = 1 if packed is None else packed.apart
        h, found = model.embed(rows.to(model.device), packed), []
        for k in range(sites[-1] + 1):
            if k in sites:
                found.append(h[:, -apart:].cpu())
            if k < sites[-1]:
                h = h + model.block(k, h, packed=packed)
        return torch.stack(found)


def part_file(site: int, part: range) -> str:
    """The name of a part."""
    return f"site-{site}-from-{part.start}.safetensors"
