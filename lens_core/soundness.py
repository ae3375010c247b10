"""Numbers that can be computed with: of a model's weights, and of a dictionary's.

A weight that is not a number, or so large that its square overflows in float32 (in which
transformers computes norms, whatever the model's dtype), makes a model that answers with
zeros or not at all, and every lens on it with something that looks like an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, is_tensor, nn

LARGEST = torch.finfo(torch.float32).max ** 0.5
"""Above this the square of a weight is no number of float32 any more (1.8e19)."""


def unsound(named: Iterable[tuple[str, Tensor]]) -> str | None:
    """What is wrong with the first tensor that is; `None` where all numbers can be used."""
    for name, tensor in named:
        if not tensor.numel() or not tensor.is_floating_point():
            continue
        low, high = (float(end) for end in torch.aminmax(tensor.detach()))
        largest = max(-low, high)
        if largest != largest:
            return f"NaN values in {name}"
        if largest == float("inf"):
            return f"infinite values in {name}"
        if largest > LARGEST:
            return f"values up to {largest:.0e} in {name}, whose squares overflow in float32"
    return None


@contextmanager
def watching_norms(model: nn.Module) -> Iterator[list[str]]:
    """Collects the norms of `model` that are given numbers whose squares overflow, as they run."""
    overflowing: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = next((each for each in (*args, *kwargs.values()) if is_tensor(each)), None)
            if given is not None and unsound([(name, given)]):
                overflowing.append(plain_name(name))

        return hook

    handles = [
        module.register_forward_pre_hook(watch(name), with_kwargs=True)
        for name, module in model.named_modules()
        if "norm" in type(module).__name__.lower()
    ]
    try:
        yield overflowing
    finally:
        for handle in handles:
            handle.remove()


def largest_of(named: Iterable[tuple[str, Tensor]]) -> tuple[str, float]:
    """The tensor with the largest value, and that value without its sign."""
    sizes = {name: float(tensor.detach().abs().max()) for name, tensor in named if tensor.numel()}
    name = max(sizes, key=lambda each: sizes[each])
    return name, sizes[name]


def plain_name(name: str) -> str:
    """The checkpoint's name of a parameter or module, without TransformerLens's wrappers."""
    return name.replace("._original_component", "").replace("_original_component.", "")
