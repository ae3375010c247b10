"""Models of a given shape with random weights, on which the cost does not depend.

`GPT2_SMALL` has the defaults of transformers' GPT2Config (its own initialisation, seed 0) and
32,768 features a layer; `TINY` only shows that a script runs. Nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lens_core.carry import Carrier
from lens_core.dictionaries.feature_dictionary import FeatureDictionary
from lens_core.lens import DictionaryShelf, QueryLens
from lens_core.model import ResidualModel
from lens_core.reference import ReferenceSample


@dataclass(frozen=True)
class Shape:
    """A decoder of GPT-2's architecture and its dictionaries."""

    name: str
    n_layers: int
    n_heads: int
    d_model: int
    d_vocab: int
    n_features: int

    @property
    def n_dictionary(self) -> int:
        """Features of all layers."""
        return self.n_layers * self.n_features

    @property
    def block_weights(self) -> int:
        """Weights of the blocks' matrices, each used twice (one FLOP) a token and pass."""
        return 12 * self.n_layers * self.d_model**2

    def __str__(self) -> str:
        return (
            f"{self.name} ({self.n_layers} layers, d {self.d_model}, {self.d_vocab:,} tokens; "
            f"random weights), {self.n_layers} x {self.n_features:,} features"
        )

    def model(
        self, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ) -> ResidualModel:
        """The random model, in the form that `load_model` returns."""
        import transformers

        torch.manual_seed(0)
        config = transformers.GPT2Config(
            n_layer=self.n_layers, n_head=self.n_heads, n_embd=self.d_model,
            vocab_size=self.d_vocab, bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
        hf_model = transformers.GPT2LMHeadModel(config)
        return ResidualModel.from_hf(hf_model.to(device, dtype), None, self.name)

    def reference(self, samples: int = 32, length: int = 32) -> ReferenceSample:
        """Random tokens of seed 1."""
        generator = torch.Generator().manual_seed(1)
        tokens = torch.randint(0, self.d_vocab, (samples, length), generator=generator)
        return ReferenceSample(tokens=tokens, origin="random tokens of seed 1")

    def dictionary(self, layer: int, n_features: int | None = None) -> FeatureDictionary:
        """An SAE on `resid_post` of `layer`: random keys and values of length one."""
        n = self.n_features if n_features is None else n_features
        generator = torch.Generator().manual_seed(layer)
        keys, values = (
            torch.nn.functional.normalize(torch.randn(n, self.d_model, generator=generator))
            for _ in range(2)
        )
        return FeatureDictionary(
            name=f"random-{layer}",
            kind="sae",
            layer=layer,
            keys=keys,
            values=values,
            read_site=2 * layer + 2,
            write_site=2 * layer + 2,
            encoder_bias=None,
            decoder_bias=None,
            read_norm="none",
            write_norm="none",
            provenance={},
            sha256=f"random-{layer}-{n}",
            encode=lambda x: torch.relu(x @ keys.T),
        )

    def lens(self, samples: int, dictionaries: Mapping[int, FeatureDictionary]) -> QueryLens:
        """A lens with random operators and dictionaries, all in memory."""
        operators = RandomOperators(self.d_model, 2 * self.n_layers)
        carrier = Carrier(self.model(), self.reference(samples), operators, None)  # type: ignore[arg-type]
        enough = 1 << 62
        shelf = DictionaryShelf(tuple(dictionaries), dictionaries.__getitem__, enough)
        return QueryLens(carrier, shelf, NoWords())  # type: ignore[arg-type]


GPT2_SMALL = Shape("GPT-2 small's shape", 12, 12, 768, 50257, 32768)
TINY = Shape("a tiny shape", 3, 2, 32, 300, 256)


@dataclass
class RandomOperators:
    """Matrices in place of built `Operators`, to time code that reads operators.

    The identity plus noise that grows with the distance to the end: products with them cost the
    same as with real operators.
    """

    d_model: int
    n_blocks: int
    origin: str = "built"
    has_blocks: bool = True
    fingerprint: str = "random"
    _kept: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    def covers(self, side: str, site: int) -> bool:
        return True

    def transition(self, side: str, site: int, positions: str = "all") -> Tensor:
        return self._matrix(*((0, self.n_blocks - site) if side == "value" else (1, site)))

    def first_order(self, side: str, site: int, off: frozenset[int] = frozenset()) -> Tensor:
        blocks = range(site, self.n_blocks) if side == "value" else range(site)
        total = self._matrix(2, len(blocks))
        silenced = off & set(blocks)
        return total - sum(self.response(k) for k in silenced) if silenced else total

    def response(self, block: int) -> Tensor:
        return self._matrix(5 + block, 1)

    def halves(self, side: str, site: int) -> list[Tensor]:
        return [self._matrix(which, site) for which in (3, 4)]

    def stability(self, side: str, dictionary: str, k: int) -> None:
        return None

    def scale(self, side: str, transition: str, dictionary: str) -> None:
        return None

    def _matrix(self, which: int, distance: int) -> Tensor:
        place = which, distance
        if place not in self._kept:
            generator = torch.Generator().manual_seed(which)
            noise = torch.randn(self.d_model, self.d_model, generator=generator)
            noise *= 0.1 * distance / self.d_model**0.5
            self._kept[place] = torch.eye(self.d_model) + noise
        return self._kept[place]


class NoWords:
    """Token ids for a model that has no tokenizer."""

    def check(self, token_id: int) -> int:
        return token_id

    def texts(self, token_ids: list[int]) -> list[str]:
        return [f"<id {token_id}>" for token_id in token_ids]
