"""Detects unusable numbers in the weights of a model or a dictionary.

A weight that is NaN, or so large that its square overflows in float32 (in which transformers
computes norms for every dtype), makes a model return zeros or NaN, and lenses on it return
meaningless lists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, is_tensor, nn

LARGEST = torch.finfo(torch.float32).max ** 0.5
"""The square of a larger weight overflows in float32 (1.8e19)."""


def unsound(named: Iterable[tuple[str, Tensor]]) -> str | None:
    """What is wrong with the first unusable tensor; `None` if all can be used."""
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
    """Collect the norms of `model` whose inputs overflow when squared, while it runs."""
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
