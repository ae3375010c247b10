"""The terms that the core and both front ends share: sides, transitions, splits, settings, blocks.

Everything here is a name or a small frozen record, so that code that only passes settings on
(the command line before the model is loaded, the app, the wire) imports no torch. docs/method.md,
section 2, defines the terms; block `2l` is `attn.l`, block `2l + 1` is `mlp.l`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from lens_core.errors import UsageError

Side = Literal["value", "key"]
"""`value`: what a feature promotes (its decoder row); `key`: what activates it (encoder column)."""
SIDES: tuple[Side, Side] = ("value", "key")

Transition = Literal["identity", "first-order", "full"]
TRANSITIONS: tuple[Transition, ...] = ("identity", "first-order", "full")

Method = Literal["operator", "direct"]
"""With matrices that serve every feature, or with passes over the reference for one feature."""

Convention = Literal["paper", "exact"]
"""Ignore the Jacobian of a norm at the dictionary, as the paper does, or apply it first."""

FinalNorm = Literal["apply", "linearize"]
"""The final norm on the averaged vector, or its Jacobian at every reference token."""

Bucket = Literal["all", "early", "late"]
"""Where in a sample the feature sits: anywhere, among the first 16 tokens, or after them."""

Split = Literal["first-reader", "last-writer", "first-order", "ablation"]
"""How a score is split among blocks; see `lens_core.paths`."""

OperatorSource = Literal["built", "shipped", "none"]
"""Operators of `qlens build`, those that come with qlens for the demo, or none."""


MEASURES: Mapping[str, str] = MappingProxyType(
    {"unembed": "score", "embed": "unit score", "embed_centered_cosine": "cosine"}
)
"""The name of the displayed score, by readout; except `score`, for a vector of length one."""

Progress = Callable[[int, int], None]
"""Called with the amount done and the total (samples, passes, units); may raise to cancel."""


@dataclass(frozen=True)
class Settings:
    """How a feature's vector is carried to the end where it is read.

    `off` are the blocks that are switched off. With `method` `None`, operators are used if they
    exist and are exact, else walks over the reference: over all of it, or over the first samples
    that hold `tokens` tokens.
    """

    transition: Transition = "full"
    convention: Convention = "paper"
    final_norm: FinalNorm = "apply"
    off: frozenset[int] = frozenset()
    method: Method | None = None
    positions: Bucket = "all"
    tokens: int | None = None

    def with_transition(self, transition: Transition) -> Settings:
        return replace(self, transition=transition)


def splits(transition: Transition, *, any_off: bool) -> tuple[Split, ...]:
    """The splits that a transition has, the usual one first; `any_off`: with blocks off."""
    if transition == "identity":
        return ("first-order",)
    if transition == "first-order":
        return "first-order", "ablation"
    return (*(() if any_off else ("first-reader",)), "last-writer", "ablation")


def block_name(block: int) -> str:
    """`attn.3` for block 6, `mlp.3` for block 7."""
    return f"{'mlp' if block % 2 else 'attn'}.{block // 2}"


def block_names(blocks: Iterable[int]) -> list[str]:
    """The names of several blocks, in the model's order."""
    return [block_name(block) for block in sorted(blocks)]


def block_index(name: str, n_layers: int | None = None) -> int:
    """The index of the block `name` (`attn.L` or `mlp.L`).

    Raises:
        UsageError: `name` is not a block of a model with `n_layers` layers (`None`: unknown).
    """
    kind, _, layer = name.strip().partition(".")
    if kind not in ("attn", "mlp") or not layer.isascii() or not layer.isdigit():
        raise UsageError(f"{name!r} is not a block: write attn.LAYER or mlp.LAYER, such as attn.9")
    if n_layers is not None and int(layer) >= n_layers:
        raise UsageError(f"block {name} is out of range: the model has layers 0 to {n_layers - 1}")
    return 2 * int(layer) + (kind == "mlp")
