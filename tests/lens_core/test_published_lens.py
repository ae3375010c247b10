"""The value operator must agree with the one that TransformerLens fits by itself.

Its convention: the last position never counts, `skip_first_positions` do not either, and
there is no lens for the last layer. It takes strings, so both read what its tokenizer makes
of them.
"""

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.tools.analysis import JacobianLens

from lens_core.model import ResidualModel
from lens_core.operators.build import assemble, build_operators
from lens_core.operators.plan import plan_build
from lens_core.reference import ReferenceSample
from tests.models import ARCHITECTURES, D_VOCAB, tiny_hf


@pytest.mark.parametrize(
    ("architecture", "skip_first"),
    [("gpt2", 0), *((each, 3) for each in ARCHITECTURES)],
    indirect=["architecture"],
)
def test_transformer_lenss_own_fit_reproduces_the_value_operator(
    architecture, word_tokenizer, tmp_path, skip_first
):
    generator = torch.Generator().manual_seed(8)
    prompts = [
        " ".join(f"w{i}" for i in torch.randint(3, D_VOCAB, (9,), generator=generator).tolist())
        for _ in range(2)
    ]
    hf_model = tiny_hf(architecture)
    hf_model.set_attn_implementation("eager")
    hf_model.config.architectures = [type(hf_model).__name__]
    bridge = TransformerBridge.boot_transformers(
        "tiny", hf_model=hf_model, tokenizer=word_tokenizer, dtype=torch.float64
    )
    tokens = torch.cat([bridge.to_tokens(prompt) for prompt in prompts])
    theirs = JacobianLens.fit(
        bridge, prompts, corpus="test", skip_first_positions=skip_first, show_progress=False
    )
    model = ResidualModel.from_hf(tiny_hf(architecture), None, "tiny")
    reference = ReferenceSample(tokens, origin="test", skip_first=skip_first, skip_last=1)
    build_operators(model, reference, plan_build(model, "weights", reference), tmp_path)
    operators = assemble(tmp_path)
    assert sorted(theirs.jacobians) == list(range(model.n_layers - 1))
    for layer, published in theirs.jacobians.items():
        ours = operators.value(2 * layer + 2)
        difference = (ours - published.double()).norm() / ours.norm()
        # Their matrices are kept in float32, and norms of three architectures are too.
        assert float(difference) < 1e-5
