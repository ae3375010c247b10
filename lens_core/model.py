"""The only interface to the model: a decoder as embed, residual blocks, final norm, unembed.

    h_0 = embed(tokens);   h_{k+1} = h_k + block_k(h_k);   logits = unembed(final_norm(h_2L))

A residual block (paper, section 3.1; `A^l` and `M^l`) is everything between
reading the stream and adding to it, including the block's own norm and, where the
architecture has one, its post-norm (Gemma 2 and 3). Block `2l` is `attn.l`, block
`2l+1` is `mlp.l`; site `k` of the stream is what block `k` reads, site `2L` is what
the final norm reads.

The weights are the checkpoint's own (`TransformerBridge` without any folding or
centring), because dictionaries are trained in that basis. Attention is eager
(forward-mode differentiation does not support fused kernels). The masks and rotary
tables that a layer's attention receives are recorded once per sequence length from
the model's own forward pass, so that sliding windows and per-layer rotary bases are
not re-implemented. On first use of a length the sum of the blocks is compared with
that forward pass; a model that does not match (parallel residuals, recurrences) is
refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_core.errors import ModelError
from lens_core.foreign import in_plain_words
from lens_core.heads import HeadGate, HeadWatch, standing_before
from lens_core.memory import is_out_of_memory
from lens_core.model_weights import weights_fingerprint
from lens_core.packing import Packed, forward_inputs
from lens_core.soundness import largest_of, plain_name, watching_norms

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Stream = Float[Tensor, "batch pos d_model"]
"""The residual stream, or a tangent or cotangent of it."""

# Another order of operations changes a few ulps per block; a missing term (a parallel
# residual, a scale) changes at least a percent.
_SELF_CHECK_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}


@runtime_checkable
class ResidualStream(Protocol):
    """What transitions and operators need from a model; the tests' toy models implement it."""

    @property
    def n_blocks(self) -> int: ...
    @property
    def d_model(self) -> int: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...
    def embed(self, tokens: Int[Tensor, "batch pos"]) -> Stream: ...
    def n_heads(self, k: int) -> int: ...
    def block(self, k: int, h: Stream, gate: HeadGate | None = None) -> Stream: ...
    def mlp_output(self, layer: int, h: Stream) -> Stream: ...
    def final_norm(self, h: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class MLPWeights:
    """The weights of one MLP, always in the orientation `x @ W_in`.

    `W_gate` and `b_gate` are `None` for an MLP without a gate. The hidden layer
    is `activation(x W_gate + b_gate) * (x W_in + b_in)` with a gate and
    `activation(x W_in + b_in)` without.
    """

    W_in: Float[Tensor, "d_model d_mlp"]
    b_in: Float[Tensor, " d_mlp"] | None
    W_gate: Float[Tensor, "d_model d_mlp"] | None
    b_gate: Float[Tensor, " d_mlp"] | None
    W_out: Float[Tensor, "d_mlp d_model"]
    b_out: Float[Tensor, " d_model"] | None
    activation: Callable[[Tensor], Tensor]


class ResidualModel:
    """A Hugging Face causal language model as residual blocks; see the module's docstring."""

    def __init__(
        self,
        hf_model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None,
        name: str,
        fingerprint: str | None = None,
    ) -> None:
        from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

        hf_model.eval().requires_grad_(False)
        hf_model.set_attn_implementation("eager")
        self.name = name
        self.tokenizer = tokenizer
        # Before creating the bridge, which adds a zero unembedding bias to models without one.
        self.fingerprint = fingerprint or weights_fingerprint(hf_model)
        architecture = type(hf_model).__name__
        try:
            self.bridge = build_bridge_from_module(
                hf_model, architecture, hf_config=hf_model.config, model_name=name
            )
            self._blocks = list(self.bridge.blocks)
            parts = [(block.ln1, block.attn, block.ln2, block.mlp) for block in self._blocks]
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ModelError(
                f"model {name} ({architecture}) is not a decoder of attention and MLP blocks "
                f"that TransformerLens can open: {in_plain_words(error)}"
            ) from error
        # The bridge inserts wrappers into the module tree; none of them may be trained.
        self.bridge.eval()
        for parameter in self.bridge.parameters():
            parameter.requires_grad_(False)
        self._parts = parts
        self.n_layers = len(self._blocks)
        embedding = hf_model.get_input_embeddings().weight
        self.d_vocab, self.d_model = embedding.shape
        self._contexts: dict[int | Packed, list[tuple[tuple[Any, ...], dict[str, Any]]]] = {}
        self._mixed_heads: dict[int, str] = {}

    @classmethod
    def from_hf(
        cls,
        hf_model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        name: str = "model",
    ) -> ResidualModel:
        """Wrap a model that is already in memory (its attention is switched to eager)."""
        return cls(hf_model, tokenizer, name)

    @property
    def n_blocks(self) -> int:
        return 2 * self.n_layers

    @property
    def device(self) -> torch.device:
        return self.W_E.device

    @property
    def dtype(self) -> torch.dtype:
        return self.W_E.dtype

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        """The token embedding as the checkpoint stores it."""
        weight = self.bridge.embed.original_component.weight
        assert isinstance(weight, Tensor)
        return weight.detach()

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]:
        """The unembedding, without folding or centring."""
        weight = self.bridge.unembed.original_component.weight
        assert isinstance(weight, Tensor)
        return weight.detach().T

    @cached_property
    def b_U(self) -> Float[Tensor, " d_vocab"] | None:
        """The unembedding's bias; `None` where the model has none."""
        bias = self.bridge.unembed.original_component.bias
        return bias.detach() if isinstance(bias, Tensor) and bool(bias.any()) else None

    @cached_property
    def embedding(self) -> Float[Tensor, "d_vocab d_model"]:
        """Every token's row as it enters the stream, scaled where the model scales (Gemma)."""
        with torch.no_grad():
            probe = torch.arange(min(self.d_vocab, 64), device=self.device)
            entered = self._token_rows(probe)
            if torch.equal(entered, self.W_E[probe]):
                return self.W_E
            return torch.cat([self._token_rows(ids) for ids in _id_chunks(self)])

    def _token_rows(self, ids: Int[Tensor, " n"]) -> Float[Tensor, "n d_model"]:
        rows = self.bridge.embed(ids[None])
        assert isinstance(rows, Tensor)
        return rows[0]

    def embed(self, tokens: Int[Tensor, "batch pos"], packed: Packed | None = None) -> Stream:
        """`h_0`: token embeddings (and learned positions) of `tokens`, in plain or packed rows.

        Raises:
            ModelError: a sample is longer than the model's context.
        """
        length = tokens.shape[1]
        limit = getattr(self.bridge.cfg, "n_ctx", None)
        if limit and (length if packed is None else packed.shared + 1) > limit:
            raise ModelError(
                f"sequences of {length} tokens are longer than the context of {self.name} "
                f"({limit}): lower [reference].length"
            )
        tokens = tokens.to(self.device)
        h: Tensor = self.bridge.embed(tokens)
        if hasattr(self.bridge, "pos_embed"):
            positions = torch.arange(length)[None] if packed is None else packed.positions
            h = h + self.bridge.pos_embed(positions.to(self.device))
        return h

    def n_heads(self, k: int) -> int:
        """How many heads block `k` is the sum of; 0 for an MLP, or if they cannot be told apart."""
        return 0 if self.mixed_heads(k) else int(self.bridge.cfg.n_heads)

    def mixed_heads(self, k: int) -> str:
        """Why block `k` cannot be split into heads; empty if it can."""
        if k % 2:
            return "an MLP has no heads"
        if not self._contexts:
            self.check()
        return self._mixed_heads[k]

    def block(
        self, k: int, h: Stream, gate: HeadGate | None = None, packed: Packed | None = None
    ) -> Stream:
        """What block `k` adds to the stream when it reads `h`; derivatives pass `gate`.

        `packed`: how rows are packed, `None` if they are plain.
        """
        if k % 2:
            return self._post_norm(k, self.mlp_output(k // 2, h))
        norm, attention = self._parts[k // 2][:2]
        args, kwargs = self._attention_context(packed or h.shape[1])[k // 2]
        with standing_before(attention, gate):
            if args:
                added = attention(norm(h), *args[1:], **kwargs)
            else:
                added = attention(hidden_states=norm(h), **kwargs)
        return self._post_norm(k, _tensor(added))

    def mlp_output(self, layer: int, h: Stream) -> Stream:
        """The output of the MLP of `layer` for `h`, before a post-norm."""
        _, _, norm, mlp = self._parts[layer]
        return _tensor(mlp(norm(h)))

    def _post_norm(self, k: int, added: Stream) -> Stream:
        post = getattr(self._blocks[k // 2], "ln2_post" if k % 2 else "ln1_post", None)
        return added if post is None else _tensor(post(added))

    def sites(
        self,
        tokens: Int[Tensor, "batch pos"],
        last: int | None = None,
        packed: Packed | None = None,
    ) -> list[Stream]:
        """The stream at sites 0 to `last` (`None`: all `2L + 1`), without gradients."""
        with torch.no_grad():
            stream = [self.embed(tokens, packed)]
            for k in range(self.n_blocks if last is None else last):
                stream.append(stream[-1] + self.block(k, stream[-1], packed=packed))
        return stream

    def final_norm(self, h: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The model's own norm in front of the unembedding."""
        return _tensor(self.bridge.ln_final(h))

    def unembed(self, h: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab"]:
        """Logits of a normalised stream, without a soft cap, which is monotone."""
        logits = h @ self.W_U
        bias = self.b_U
        return logits if bias is None else logits + bias

    def mlp_norm(self, layer: int) -> Callable[[Tensor], Tensor]:
        """The norm between `h_mid` of `layer` and its MLP (`ln2`)."""
        norm = self._parts[layer][2]
        return lambda h: _tensor(norm(h))

    def mlp_post_norm(self, layer: int) -> Callable[[Tensor], Tensor] | None:
        """The norm between the MLP of `layer` and the stream; `None` if there is none."""
        norm = getattr(self._blocks[layer], "ln2_post", None)
        return None if norm is None else lambda h: _tensor(norm(h))

    def mlp_weights(self, layer: int) -> MLPWeights:
        """The MLP of `layer`.

        Raises:
            ModelError: the layer's MLP is not one hidden layer (a mixture of experts, say).
        """
        mlp = self._parts[layer][3].original_component
        inner = {"c_fc": "W_in", "up_proj": "W_in", "gate_proj": "W_gate", "c_proj": "W_out",
                 "down_proj": "W_out"}  # fmt: skip
        weights: dict[str, Tensor | None] = {"W_gate": None}
        biases: dict[str, Tensor | None] = {"W_gate": None}
        for attribute, role in inner.items():
            module = getattr(mlp, attribute, None)
            if module is None:
                continue
            linear = getattr(module, "original_component", module)
            # nn.Linear stores [out, in]; GPT-2's Conv1D stores [in, out].
            weight = linear.weight.detach()
            weights[role] = weight.T if isinstance(linear, torch.nn.Linear) else weight
            bias = getattr(linear, "bias", None)
            biases[role] = None if bias is None else bias.detach()
        activation = getattr(mlp, "act_fn", getattr(mlp, "act", None))
        w_in, w_out = weights.get("W_in"), weights.get("W_out")
        if w_in is None or w_out is None or activation is None:
            raise ModelError(
                f"the MLP of layer {layer} of {self.name} ({type(mlp).__name__}) has no single "
                "hidden layer of neurons: use a dictionary of kind sae or transcoder"
            )
        return MLPWeights(
            w_in, biases["W_in"], weights["W_gate"], biases["W_gate"], w_out, biases["W_out"],
            getattr(activation, "original_component", activation),
        )  # fmt: skip

    def _attention_context(self, row: int | Packed) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        if row not in self._contexts:
            self._contexts[row] = self._record_attention(row)
        return self._contexts[row]

    def _record_attention(self, row: int | Packed) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        """Run the model's forward pass once, keep each attention's arguments, check the sum."""
        given: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        seen: dict[str, Tensor] = {}

        def record(layer: int) -> Callable[..., None]:
            def hook(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                kept = {name: value for name, value in kwargs.items() if name != "hidden_states"}
                given[layer] = args, kept

            return hook

        def see(_module: Any, args: tuple[Any, ...]) -> None:
            seen["normed"] = args[0]

        handles = [
            attention.register_forward_pre_hook(record(layer), with_kwargs=True)
            for layer, (_, attention, _, _) in enumerate(self._parts)
        ]
        handles.append(self.bridge.unembed.register_forward_pre_hook(see))
        watches = [HeadWatch(attention) for _, attention, _, _ in self._parts]
        packed = row if isinstance(row, Packed) else None
        length = row.length if isinstance(row, Packed) else row
        inputs = {} if packed is None else forward_inputs(packed, self.dtype, self.device)
        tokens = torch.arange(length, device=self.device)[None] * 7 % self.d_vocab
        try:
            with torch.no_grad(), watching_norms(self.bridge.original_model) as overflowing:
                self.bridge.original_model(input_ids=tokens, use_cache=False, **inputs)
        finally:
            for handle in handles:
                handle.remove()
            for layer, watch in enumerate(watches):
                self._mixed_heads[2 * layer] = watch.stop(self.bridge.cfg)
        if overflowing:
            tensor, largest = largest_of(self.bridge.original_model.named_parameters())
            raise ModelError(
                f"the activations of {self.name} overflow in front of {overflowing[0]}; its "
                f"largest weight is {largest:.0e}, in {plain_name(tensor)}: get the weights "
                "again, or check how they were saved"
            )
        if sorted(given) != list(range(self.n_layers)) or "normed" not in seen:
            raise ModelError(f"model {self.name} does not run its blocks one after another")
        contexts = [given[layer] for layer in range(self.n_layers)]
        self._contexts[row] = contexts
        try:
            added_up = self.final_norm(self.sites(tokens, packed=packed)[-1])
        except (RuntimeError, TypeError, ValueError) as error:
            del self._contexts[row]
            if is_out_of_memory(error):
                raise
            raise ModelError(
                f"the blocks of {self.name} cannot be run one by one: {in_plain_words(error)}"
            ) from error
        expected = seen["normed"]
        difference = float((added_up - expected).norm() / expected.norm())
        if not difference <= _SELF_CHECK_TOLERANCE.get(self.dtype, 1e-3):
            del self._contexts[row]
            raise ModelError(
                f"the attention and MLP blocks of {self.name} do not add up to its own forward "
                f"pass (relative difference {difference:.1e}): qlens cannot read this architecture"
            )
        return contexts

    def check(self, length: int = 8) -> None:
        """Compare the sum of the blocks with the model's own forward pass.

        Raises:
            ModelError: they differ, so that lenses on these blocks would be wrong.
        """
        self._attention_context(length)


def _id_chunks(model: ResidualModel) -> list[Tensor]:
    return list(torch.split(torch.arange(model.d_vocab, device=model.device), 16384))


def _tensor(output: Any) -> Tensor:
    first = output[0] if isinstance(output, tuple) else output
    assert isinstance(first, Tensor)
    return first
