"""A residual stream small enough to differentiate by brute force.

It mixes positions with causal, input-dependent attention: a transition that treats
tokens one by one, or a cotangent at the wrong positions, gives another answer here.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from lens_core.heads import HeadGate


@dataclass
class MixingToy:
    """Two layers of softmax attention and a tanh MLP on a float64 stream."""

    d_model: int = 5
    n_layers: int = 2
    d_vocab: int = 101
    dtype: torch.dtype = torch.float64
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(1)

        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=self.dtype)

        d = self.d_model
        self.table = random(self.d_vocab, d)
        self.position = 0.3 * random(64, d)
        self.weights = [
            (
                random(d, d) / 2,
                random(d, d) / 2,
                random(d, d) / 2,
                random(d, 7) / 2,
                random(7, d) / 2,
            )
            for _ in range(self.n_layers)
        ]

    @property
    def n_blocks(self) -> int:
        return 2 * self.n_layers

    def embed(self, tokens: Tensor) -> Tensor:
        return self.table[tokens] + self.position[: tokens.shape[1]]

    def n_heads(self, k: int) -> int:
        return 0

    def block(self, k: int, h: Tensor) -> Tensor:
        query, key, value, _, _ = self.weights[k // 2]
        if k % 2:
            return self.mlp_output(k // 2, h)
        scores = (h @ query) @ (h @ key).transpose(-1, -2)
        causal = torch.ones(h.shape[1], h.shape[1], dtype=torch.bool).tril()
        pattern = scores.masked_fill(~causal, float("-inf")).softmax(-1)
        return pattern @ h @ value

    def mlp_output(self, layer: int, h: Tensor) -> Tensor:
        return torch.tanh(h @ self.weights[layer][3]) @ self.weights[layer][4]

    def final_norm(self, h: Tensor) -> Tensor:
        return h / (h.square().mean(-1, keepdim=True) + 1e-5).sqrt()

    def run(self, h: Tensor, first: int, last: int | None = None) -> Tensor:
        """The stream at site `last` from the stream `h` at site `first`."""
        for k in range(first, self.n_blocks if last is None else last):
            h = h + self.block(k, h)
        return h


@dataclass
class HeadedToy(MixingToy):
    """The same with two heads in each attention, each with a pattern of its own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        generator = torch.Generator().manual_seed(3)
        shape = self.n_layers, 2, 4, self.d_model, 3
        self.heads = torch.randn(*shape, generator=generator, dtype=self.dtype) / 2

    def n_heads(self, k: int) -> int:
        return 0 if k % 2 else 2

    def z(self, layer: int, head: int, h: Tensor) -> Tensor:
        """The output of one head, before its part of the output projection."""
        query, key, value, _ = self.heads[layer, head]
        scores = (h @ query) @ (h @ key).transpose(-1, -2)
        causal = torch.ones(h.shape[1], h.shape[1], dtype=torch.bool).tril()
        return scores.masked_fill(~causal, float("-inf")).softmax(-1) @ h @ value

    def block(self, k: int, h: Tensor, gate: HeadGate | None = None) -> Tensor:
        if k % 2:
            return super().block(k, h)
        z = torch.cat([self.z(k // 2, head, h) for head in range(2)], -1)
        projection = self.heads[k // 2, :, 3].transpose(-1, -2).flatten(0, 1)
        return torch.tanh((z if gate is None else gate.stand_at(z)) @ projection)


@dataclass
class LinearToy:
    """One layer whose two blocks are fixed matrices: transitions can be written down by hand."""

    attention: Tensor
    mlp: Tensor
    table: Tensor
    dtype: torch.dtype = torch.float64
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    n_blocks: int = 2

    @property
    def d_model(self) -> int:
        return self.attention.shape[0]

    def embed(self, tokens: Tensor) -> Tensor:
        return self.table[tokens]

    def n_heads(self, k: int) -> int:
        return 0

    def block(self, k: int, h: Tensor) -> Tensor:
        return h @ (self.mlp if k else self.attention).T

    def mlp_output(self, layer: int, h: Tensor) -> Tensor:
        return self.block(1, h)

    def final_norm(self, h: Tensor) -> Tensor:
        return h
