"""The terms that the core and both front ends share: sides, transitions, splits, settings, blocks.

Everything here is a name or a small frozen record, so that code that only passes settings on
(the command line before the model is loaded, the app, the wire) imports no torch. docs/method.md,
section 2, defines the terms; block `2l` is `attn.l`, block `2l + 1` is `mlp.l`.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
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

Projection = Literal["gate", "up"]
"""Of the two projections of a gated MLP, the one whose columns are the neurons' keys."""

Bucket = Literal["all", "early", "late"]
"""Where in a sample the feature sits: anywhere, among the first 16 tokens, or after them."""

Split = Literal["first-reader", "last-writer", "first-order", "ablation"]
"""How a score is split among blocks; see `lens_core.paths`."""

Head = tuple[int, int]
"""One head of an attention block: the block, and the head's number."""

Switch = int | Head
"""What can be switched off: a block or one head of it."""

OperatorSource = Literal["built", "shipped", "none"]
"""Operators of `qlens build`, those that come with qlens for the demo, or none."""


MEASURES: Mapping[str, str] = MappingProxyType(
    {"unembed": "score", "embed": "unit score", "embed_centered_cosine": "cosine",
     "forward": "cosine", "standard_scores": "z sum"}
)  # fmt: skip
"""The name of the displayed score, by readout; except `score`, for a vector of length one."""

Progress = Callable[[int, int], None]
"""Called with the amount done and the total (samples, passes, units); may raise to cancel."""

Tick = Callable[[str, int, int], None]
"""The same, with what is being done in front."""


@dataclass(frozen=True)
class Settings:
    """How a feature's vector is carried to the end where it is read.

    `off` are the blocks and heads that are switched off. With `method` `None`, operators are used
    if they exist and are exact, else walks over the reference: over all of it, or over the first
    samples that hold `tokens` tokens.
    """

    transition: Transition = "full"
    convention: Convention = "paper"
    final_norm: FinalNorm = "apply"
    off: frozenset[Switch] = frozenset()
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


def block_of(switch: Switch) -> int:
    """The block of a switch."""
    return switch if isinstance(switch, int) else switch[0]


def on_path(off: Iterable[Switch], path: Container[int]) -> frozenset[Switch]:
    """The switches that are on a path of blocks."""
    return frozenset(switch for switch in off if block_of(switch) in path)


def heads_of(off: Iterable[Switch], block: int) -> frozenset[int]:
    """Those heads of a block that are among the switches."""
    return frozenset(each[1] for each in off if not isinstance(each, int) and each[0] == block)


def merged(off: Iterable[Switch], n_heads: Callable[[int], int]) -> frozenset[Switch]:
    """The same switches in one way: a block for all of its heads, no heads of a block that is off.

    `n_heads` is the number of heads of a block.
    """
    blocks = {each for each in off if isinstance(each, int)}
    heads = [each for each in off if not isinstance(each, int) and each[0] not in blocks]
    for block in {block for block, _ in heads}:
        if len(heads_of(heads, block)) == n_heads(block):
            blocks.add(block)
    return frozenset(blocks).union(each for each in heads if each[0] not in blocks)


def toggled(
    off: frozenset[Switch], switch: Switch, n_heads: Callable[[int], int]
) -> frozenset[Switch]:
    """`off` with one switch the other way; a head of a block that is off is then its only one."""
    block = block_of(switch)
    if block in off and block != switch:
        others: set[Switch] = {(block, head) for head in range(n_heads(block))}
        off = (off - {block}) | others
    return merged(off ^ {switch}, n_heads)


def switch_name(switch: Switch) -> str:
    """`attn.3` or `mlp.3` for a block, `attn.3.h5` for a head."""
    if isinstance(switch, int):
        return block_name(switch)
    block, head = switch
    return f"{block_name(block)}.h{head}"


def in_order(switches: Iterable[Switch]) -> list[Switch]:
    """Switches in the model's order, a block before its heads."""
    return sorted(switches, key=lambda each: (each, -1) if isinstance(each, int) else each)


def switch_names(switches: Iterable[Switch]) -> list[str]:
    """The names of several switches, in the model's order."""
    return [switch_name(switch) for switch in in_order(switches)]


def block_index(name: str, n_layers: int | None = None) -> int:
    """The index of the block `name` (`attn.L` or `mlp.L`).

    Raises:
        UsageError: `name` is not a block of a model with `n_layers` layers (`None`: unknown).
    """
    kind, _, layer = name.strip().partition(".")
    if kind not in ("attn", "mlp") or not _is_number(layer):
        raise UsageError(f"{name!r} is not a block: write attn.LAYER or mlp.LAYER, such as attn.9")
    if n_layers is not None and int(layer) >= n_layers:
        raise UsageError(f"block {name} is out of range: the model has layers 0 to {n_layers - 1}")
    return 2 * int(layer) + (kind == "mlp")


def switch_index(name: str, n_layers: int | None = None) -> Switch:
    """The block or head called `name` (`attn.L`, `mlp.L`, `attn.L.hN`).

    Whether the block has such a head only the model knows.

    Raises:
        UsageError: `name` is neither, or the model has no such layer.
    """
    block, dot, head = name.strip().rpartition(".")
    if not dot or not head.startswith("h"):
        return block_index(name, n_layers)
    if not _is_number(head[1:]):
        raise UsageError(f"{name!r} is not a head: write attn.LAYER.hHEAD, such as attn.9.h3")
    return block_index(block, n_layers), int(head[1:])


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
