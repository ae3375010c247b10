"""The names of residual blocks: block `2l` is `attn.l`, block `2l+1` is `mlp.l`.

No torch here: a name that is none is refused before a model is loaded.
"""

from __future__ import annotations

from collections.abc import Iterable

from lens_core.errors import UsageError


def block_name(k: int) -> str:
    """`attn.3` for block 6, `mlp.3` for block 7."""
    return f"{'mlp' if k % 2 else 'attn'}.{k // 2}"


def block_names(blocks: Iterable[int]) -> list[str]:
    """The names of several blocks, in the order of the stream."""
    return [block_name(k) for k in sorted(blocks)]


def block_index(name: str, n_layers: int | None = None) -> int:
    """The block that `name` (`attn.L` or `mlp.L`) stands for.

    Raises:
        UsageError: `name` is no block of a model with `n_layers` layers (`None`: not known yet),
            or of any.
    """
    kind, _, layer = name.strip().partition(".")
    if kind not in ("attn", "mlp") or not layer.isascii() or not layer.isdigit():
        raise UsageError(f"{name!r} is not a block: write attn.LAYER or mlp.LAYER, such as attn.9")
    if n_layers is not None and int(layer) >= n_layers:
        raise UsageError(f"block {name} is out of range: the model has layers 0 to {n_layers - 1}")
    return 2 * int(layer) + (kind == "mlp")
