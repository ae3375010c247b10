"""The residual view of a model is that model: nothing folded, nothing approximated."""

import pytest
import torch

from lens_core.errors import ModelError, UsageError
from lens_core.model import ResidualModel, weights_fingerprint
from lens_core.terms import block_index, block_name
from tests.models import D_VOCAB, tiny_hf

# GPT-2 computes in float64 throughout; the others cast norms and softmax to float32.
FORWARD_TOLERANCE = {"gpt2": 1e-9, "llama": 1e-6, "gemma3": 1e-6, "qwen3": 1e-6}


@pytest.fixture
def tokens():
    return torch.randint(0, D_VOCAB, (3, 20), generator=torch.Generator().manual_seed(0))


def relative(got, expected):
    return float((got - expected).norm() / expected.norm())


def test_the_blocks_add_up_to_hugging_faces_own_forward(architecture, tiny, tokens):
    plain = tiny_hf(architecture)
    plain.set_attn_implementation("eager")
    with torch.no_grad():
        expected = plain(tokens).logits
    got = tiny.unembed(tiny.final_norm(tiny.sites(tokens)[-1]))
    assert relative(got, expected) < FORWARD_TOLERANCE[architecture]


def test_every_site_is_the_hidden_state_between_the_layers(architecture, tiny, tokens):
    plain = tiny_hf(architecture)
    plain.set_attn_implementation("eager")
    with torch.no_grad():
        hidden = plain(tokens, output_hidden_states=True).hidden_states
    sites = tiny.sites(tokens)
    assert len(sites) == 2 * tiny.n_layers + 1
    for layer in range(tiny.n_layers):
        assert relative(sites[2 * layer], hidden[layer]) < FORWARD_TOLERANCE[architecture]


def test_an_mlp_block_is_its_weights_between_its_norms(architecture, tiny, tokens):
    h = tiny.sites(tokens)[3]
    weights = tiny.mlp_weights(1)
    x = tiny.mlp_norm(1)(h)
    hidden = x @ weights.W_in + (0 if weights.b_in is None else weights.b_in)
    if weights.W_gate is None:
        hidden = weights.activation(hidden)
    else:
        hidden = weights.activation(x @ weights.W_gate) * hidden
    out = hidden @ weights.W_out + (0 if weights.b_out is None else weights.b_out)
    assert relative(out, tiny.mlp_output(1, h)) < FORWARD_TOLERANCE[architecture]
    post = tiny.mlp_post_norm(1)
    assert (post is not None) == (architecture == "gemma3")
    added = out if post is None else post(out)
    assert relative(added, tiny.block(3, h)) < FORWARD_TOLERANCE[architecture]


def test_gemma_scales_the_rows_that_enter_the_stream(architecture, tiny):
    scale = tiny.d_model**0.5 if architecture == "gemma3" else 1.0
    assert torch.allclose(tiny.embedding, tiny.W_E * scale, rtol=1e-6)


def test_a_model_with_parallel_residuals_is_refused_by_name():
    model = ResidualModel.from_hf(tiny_hf("neox"), None, "parallel")
    with pytest.raises(
        ModelError, match=r"parallel do not add up .* cannot read this architecture"
    ):
        model.check()


def test_a_model_that_is_no_decoder_is_refused_in_one_line():
    import transformers

    config = transformers.BertConfig(
        vocab_size=D_VOCAB, hidden_size=24, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32,
    )  # fmt: skip
    with pytest.raises(ModelError) as caught:
        ResidualModel.from_hf(transformers.BertForMaskedLM(config), None, "bert").check()
    assert "\n" not in str(caught.value)


def test_a_sample_longer_than_the_context_is_refused(tiny):
    with pytest.raises(ModelError, match="longer than the context"):
        tiny.sites(torch.zeros(1, 65, dtype=torch.int64))


def test_the_fingerprint_follows_the_weights_and_the_configuration():
    first = weights_fingerprint(tiny_hf("llama"))
    assert first == weights_fingerprint(tiny_hf("llama"))
    assert first != weights_fingerprint(tiny_hf("llama", seed=1))
    other = tiny_hf("llama")
    other.config.rms_norm_eps *= 2
    assert first != weights_fingerprint(other)


def test_block_names_and_numbers_are_inverse():
    assert [block_name(k) for k in range(4)] == ["attn.0", "mlp.0", "attn.1", "mlp.1"]
    assert all(block_index(block_name(k), 10) == k for k in range(20))


@pytest.mark.parametrize("name", ["attn", "attn.", "attn.x", "mlp.-1", "resid.1", "", "attn.²"])
def test_what_is_no_block_is_a_usage_error(name):
    with pytest.raises(UsageError, match="is not a block"):
        block_index(name, 4)


def test_a_block_of_a_layer_that_is_not_there_names_the_range():
    with pytest.raises(UsageError, match="layers 0 to 3"):
        block_index("attn.4", 4)
