"""A feature set to a strength, against hooks on the plain model of Hugging Face, text by text."""

import pytest
import torch

from lens_core.config import DictionaryConfig
from lens_core.dictionaries.load import load_dictionary
from lens_core.reference import ReferenceSample
from lens_core.short_texts import filled_up
from lens_core.steering import Steering
from tests.lens_core.test_finite_differences import hooked, layers_of, loaded
from tests.lens_core.test_lens_dictionaries import PLACES, Place
from tests.models import tiny_hf
from tests.oracles import relative

FEATURE, STRENGTH = 3, 4.0


def some_texts():
    generator = torch.Generator().manual_seed(4)
    rows = [
        tuple(torch.randint(0, 101, (length,), generator=generator).tolist())
        for length in (3, 5, 1, 4, 5)
    ]
    tokens, ends = filled_up(rows)
    return ReferenceSample(tokens, "test", ends=ends)


@pytest.mark.parametrize("where", ["resid_post", "transcoder", "neurons"])
@torch.no_grad()
def test_logits_are_those_of_the_plain_model_with_a_hook(architecture, tiny, where, tmp_path):
    hf = tiny_hf(architecture)
    block = layers_of(hf)[1]
    if where == "neurons":
        ours = load_dictionary(DictionaryConfig(kind="neurons"), 1, tiny, dtype=torch.float64)
        module = block.mlp.c_proj if architecture == "gpt2" else block.mlp.down_proj

        def change(activations):
            changed = activations.clone()
            changed[..., FEATURE] = STRENGTH
            return changed

        hook = hooked(module, pre=True, change=change)
    else:
        spec = PLACES["transcoder"] if where == "transcoder" else Place("sae", 1, "hook_resid_post")
        theirs, ours = loaded(spec, tiny, tmp_path)
        module = block.mlp if where == "transcoder" else block

        def added(read):
            return (STRENGTH - theirs.encode(read)[..., FEATURE, None]) * theirs.W_dec[FEATURE]

        if where == "resid_post":
            hook = hooked(module, pre=False, change=lambda x: x + added(x))
        else:
            plain = module.forward
            hook = hooked(module, pre=None, change=lambda x: plain(x) + added(x))
    texts = some_texts()
    steering = Steering(tiny, ours, texts)
    got = steering.logits(FEATURE, STRENGTH)
    bound = 1e-9 if architecture == "gpt2" else 1e-4  # float32 norms and softmax inside
    ids = [torch.tensor([texts.ids(at)]) for at in range(texts.samples)]
    for at, one in enumerate(ids):
        assert relative(steering.clean[at], hf(input_ids=one).logits[0, -1]) < bound
    with hook:
        for at, one in enumerate(ids):
            assert relative(got[at], hf(input_ids=one).logits[0, -1]) < bound


@pytest.mark.parametrize("architecture", ["gpt2"], indirect=True, scope="session")
def test_batches_and_what_fills_the_rows_change_nothing(architecture, tiny, monkeypatch):
    ours = load_dictionary(DictionaryConfig(kind="neurons"), 1, tiny, dtype=torch.float64)
    texts = some_texts()
    whole = Steering(tiny, ours, texts).logits(FEATURE, STRENGTH)
    monkeypatch.setattr("lens_core.steering.samples_per_pass", lambda *_: 2)
    assert relative(Steering(tiny, ours, texts).logits(FEATURE, STRENGTH), whole) < 1e-12
    after = torch.arange(texts.length) > texts.ends[:, None]
    other = ReferenceSample(texts.tokens.masked_fill(after, 7), "test", ends=texts.ends)
    assert torch.equal(Steering(tiny, ours, other).logits(FEATURE, STRENGTH),
                       Steering(tiny, ours, texts).logits(FEATURE, STRENGTH))  # fmt: skip


@pytest.mark.parametrize("architecture", ["gpt2"], indirect=True, scope="session")
def test_less_memory_only_takes_more_passes(architecture, tiny, monkeypatch):
    ours = load_dictionary(DictionaryConfig(kind="neurons"), 1, tiny, dtype=torch.float64)
    texts = some_texts()
    whole = Steering(tiny, ours, texts).logits(FEATURE, STRENGTH)
    from lens_core import steering

    real, sizes = steering.end, []

    def full(model, dictionary, of):
        sizes.append(len(of.reconstruction))
        if sizes[-1] > 1:
            raise MemoryError
        return real(model, dictionary, of)

    monkeypatch.setattr(steering, "end", full)
    assert relative(Steering(tiny, ours, texts).logits(FEATURE, STRENGTH), whole) < 1e-12
    assert max(sizes) > 1
