"""The heads of an attention block, switched off in its derivative.

    block(h) = W_O [z_1(h); ...; z_H(h)] + b_O        J = sum over heads of W_O^i dz_i/dh

(docs/method.md, section 3.) What enters the output projection `W_O` is the heads' outputs side by
side. A `HeadGate` stands there: what flows forward is unchanged, so that the block is linearised
where it always is, but derivatives, in both directions, pass only through the heads that are on.
It is asked each time that a derivative is taken, so that one recording of the block serves all
choices of heads. A norm after the projection (Gemma 2 and 3) is linear in the derivative too:
heads add up to the block there as well. A norm before it would mix them (`fused_norm`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

HeadOutputs = Float[Tensor, "batch pos d_heads"]
"""The outputs of all heads side by side, or a tangent or cotangent of them."""


class HeadGate:
    """Which of a block's `n_heads` heads derivatives pass through; all, until `off` is set."""

    def __init__(self, n_heads: int) -> None:
        self.n_heads = n_heads
        self.off: frozenset[int] = frozenset()

    def stand_at(self, z: HeadOutputs) -> HeadOutputs:
        """`z` itself, whose derivatives pass the gate."""
        return _apply(_Stand, z, self)

    def passed(self, flowing: HeadOutputs) -> HeadOutputs:
        """A tangent or cotangent of the heads' outputs, zero at the heads that are off."""
        if not self.off:
            return flowing.view_as(flowing)
        on = flowing.new_tensor([head not in self.off for head in range(self.n_heads)])
        heads = flowing.reshape(*flowing.shape[:-1], self.n_heads, -1)
        return (heads * on[:, None]).flatten(-2)


class _Stand(torch.autograd.Function):
    """Identity whose derivative is a gate."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, gate: HeadGate) -> Tensor:
        ctx.gate = gate
        return z.view_as(z)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, None]:
        return _apply(_Pass, cotangents[0], ctx.gate), None


class _Pass(torch.autograd.Function):
    """A gate as a linear map; it is symmetric, so that it is its own derivative's transpose."""

    @staticmethod
    def forward(ctx: Any, flowing: Tensor, gate: HeadGate) -> Tensor:
        ctx.gate = gate
        return gate.passed(flowing)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, None]:
        return _apply(_Pass, cotangents[0], ctx.gate), None


def _apply(function: type[torch.autograd.Function], x: Tensor, gate: HeadGate) -> Tensor:
    passed: Tensor = function.apply(x, gate)  # type: ignore[no-untyped-call]
    return passed


@contextmanager
def standing_before(attention: nn.Module, gate: HeadGate | None) -> Iterator[None]:
    """While this lasts, `gate` stands where the attention's output projection reads its heads."""
    projection = _projection(attention)
    if gate is None or projection is None:
        yield
        return

    def hook(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return gate.stand_at(args[0]), *args[1:]

    handle = projection.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


class HeadWatch:
    """Watches one forward pass of an attention, to see whether its heads can be told apart."""

    def __init__(self, attention: nn.Module) -> None:
        self._read: Tensor | None = None
        self._outputs: list[Tensor] = []  # kept, so that no address is used twice
        projection = _projection(attention)
        self._handles = [
            module.register_forward_hook(self._see_output)
            for module in attention.modules()
            if module is not projection and any(True for _ in module.parameters(recurse=False))
        ]
        if projection is not None:
            self._handles.append(projection.register_forward_pre_hook(self._see_input))

    def _see_input(self, _module: nn.Module, args: tuple[Any, ...]) -> None:
        self._read = args[0]

    def _see_output(self, _module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor):
            self._outputs.append(output)

    def stop(self, cfg: Any) -> str:
        """Stop watching; why the heads cannot be told apart, empty if they can.

        `cfg` holds `n_heads` and `d_head`, the size of each head's output.
        """
        for handle in self._handles:
            handle.remove()
        read, n_heads, d_head = self._read, getattr(cfg, "n_heads", 0), getattr(cfg, "d_head", 0)
        self._read, outputs, self._outputs = None, self._outputs, []
        if read is None:
            return "its output projection is not found"
        if read.shape[-1] != n_heads * d_head:
            return f"its output projection reads {read.shape[-1]} numbers, not {n_heads} x {d_head}"
        if any(each.data_ptr() == read.data_ptr() for each in outputs):
            return "its output projection reads them from another module, which may mix them"
        return ""


def _projection(attention: nn.Module) -> nn.Module | None:
    """The output projection of an attention of TransformerLens: the checkpoint's own module."""
    found = getattr(getattr(attention, "o", None), "original_component", None)
    return found if isinstance(found, nn.Module) else None
