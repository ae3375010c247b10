"""Walks over one recording, kept by name, and their results in the result cache.

A walk keeps what it summed, so that a stage goes on and a switch is quick; what it gave over the
whole reference is kept on disk.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from lens_core.batch_walk import Route
from lens_core.direct import NO_BLOCKS
from lens_core.kept_results import KeptResults
from lens_core.recording import Recording
from lens_core.terms import Bucket, Progress, Side, Transition
from lens_core.walk import Walk

_MOST_WALKS, _WITH_TANGENTS = 64, 4  # kept; the latest of them with what makes a switch quick


class KeptWalks:
    """The latest walks over `recording`; results that are whole go to `results`."""

    def __init__(
        self, recording: Recording, results: KeptResults, progress: Progress | None
    ) -> None:
        self.progress = progress
        self._recording = recording
        self._results = results
        self._walks: OrderedDict[tuple[Any, ...], Walk] = OrderedDict()

    def named(
        self,
        name: tuple[Any, ...],
        vector: Float[Tensor, " d_model"],
        route: Route,
        transition: Transition = "full",
    ) -> Walk:
        """The walk of this name, with what it summed before."""
        walk = self._walks.pop(name, None) or Walk(self._recording, vector, route, transition)
        self._walks[name] = walk
        while len(self._walks) > _MOST_WALKS:
            self._walks.popitem(last=False)
        for old in list(self._walks.values())[:-_WITH_TANGENTS]:
            old.forget_tangents()
        return walk

    def kept(
        self, asked: dict[str, Any], walk: Callable[[], tuple[Tensor, int]]
    ) -> tuple[Tensor, int]:
        """What was kept under `asked`, or what `walk()` gives; with the tokens behind it."""
        every = self._recording.reference.n_tokens
        kept = self._results.get(asked)
        if kept is None:
            found, n_tokens = walk()
            if n_tokens < every:
                return found, n_tokens
            kept = self._results.put(asked, {"found": found})
        return kept["found"], every

    def back(
        self,
        side: Side,
        direction: Float[Tensor, " d_model"],
        positions: Bucket = "all",
        *,
        until: int | None = None,
    ) -> ReadBack:
        """`direction` from the end where `side` is read to site `until`, or to the other end."""
        n_blocks = self._recording.model.n_blocks
        start, end = (n_blocks, 0) if side == "value" else (0, n_blocks)
        route = Route(start, end if until is None else until, positions, to_feature=True)
        content = hashlib.sha256(direction.cpu().contiguous().numpy().tobytes()).hexdigest()
        asked = {
            "side": side, "direction": content, "positions": positions, "until": route.end,
        }  # fmt: skip
        return ReadBack(self, direction, route, asked)


@dataclass(frozen=True)
class ReadBack:
    """`T_value[site]^T w` or `T_key[site] w`, without operators, and what blocks add to it."""

    walks: KeptWalks
    direction: Float[Tensor, " d_model"]
    route: Route
    asked: Mapping[str, Any]

    def at_sites(self, tokens: int | None = None) -> tuple[Float[Tensor, "sites d_model"], int]:
        """At every site of the route, zero at the others; over `tokens` at least, or all.

        Also the tokens that are behind it.
        """
        asked = {"kind": "at_sites", **self.asked}
        return self.walks.kept(asked, lambda: self._walk().at_sites(tokens, self.walks.progress))

    def of_heads(
        self, block: int, tokens: int | None = None
    ) -> tuple[Float[Tensor, "heads d_model"], int]:
        """What each head of a block adds on the way; also the tokens that are behind it."""
        asked = {"kind": "heads_at_site", "block": block, **self.asked}
        return self.walks.kept(
            asked,
            lambda: self._walk().of_heads(block, NO_BLOCKS, tokens, self.walks.progress),
        )

    def _walk(self) -> Walk:
        return self.walks.named(("back", *self.asked.values()), self.direction, self.route)
