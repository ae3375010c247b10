"""Zero-Out and Token Change against running the model with SAELens's own object in it."""

import dataclasses
from contextlib import contextmanager

import pytest
import torch

from lens_core import finite_differences
from lens_core.carry import Carrier
from lens_core.config import DictionaryConfig
from lens_core.dictionaries.feature_dictionary import read_function
from lens_core.dictionaries.load import load_dictionary
from lens_core.errors import DictionaryError, UsageError
from lens_core.instruments import DictionaryShelf
from lens_core.lens import QueryLens
from lens_core.lenses import lens_named
from lens_core.reference import ReferenceSample
from lens_core.storage.results import ResultCache
from lens_core.terms import Settings
from lens_core.vocabulary import Vocabulary
from tests.lens_core.test_lens import of_one
from tests.lens_core.test_lens_dictionaries import PLACES, K, Place, make
from tests.models import tiny_hf
from tests.oracles import relative, run

ZERO_OUT = lens_named("zero-out")
CHANGES = [lens_named(f"token-change:{clamp}") for clamp in (1, 5, 10)]
EVERY = [ZERO_OUT, *CHANGES]
FEATURES = (3, 11, 3)
ALL = PLACES | {
    "resid_post of the first layer, rescaled": Place(
        "sae", 0, "hook_resid_post", normalize="constant_norm_rescale"
    ),
    "transcoder behind its own norm": Place(
        "transcoder", 1, "hook_mlp_in", "hook_mlp_out", normalize="layer_norm"
    ),
}


def lens_on(dictionary, model, reference, tokenizer, results=None, batch=None):
    carrier = Carrier(model, reference, None, results, batch=batch)
    shelf = DictionaryShelf([dictionary.layer], lambda _: dictionary)
    return QueryLens(carrier, shelf, Vocabulary(tokenizer, model.d_vocab), k=K)


def loaded(place, model, folder):
    """SAELens's object at a place, and ours."""
    layer = place.layer % model.n_layers
    theirs = make(place, layer, model.name, model.d_model)
    theirs.save_model(folder)
    config = DictionaryConfig(kind=place.kind, path=folder)
    return theirs, load_dictionary(config, layer, model, dtype=torch.float64)


def carried(lens, kind, dictionary, features=FEATURES, settings=None):
    return kind.carry_several(lens, "value", dictionary, features, settings or Settings())


@pytest.fixture(scope="module", params=ALL)
def place(request):
    return ALL[request.param]


@torch.no_grad()
def normed_with(model, theirs, ours, reference, feature, value):
    """The normed final stream, the feature at `value` (`None`: as it is) where positions count."""
    h = model.sites(reference.tokens)[ours.read_site]
    read = model.mlp_norm(ours.layer) if ours.read_norm == "ln2" else (lambda x: x)
    acts = theirs.encode(read(h))
    if value is not None:
        acts[..., feature] = torch.where(reference.counts, value, acts[..., feature])
    made = theirs.decode(acts)
    if ours.write_norm == "ln2_post":
        made = model.mlp_post_norm(ours.layer)(made)
    start = made if ours.kind == "sae" else h + made
    return model.final_norm(run(model, start, ours.write_site)[-1])


def expected(kind, model, theirs, ours, reference, feature):
    clean = normed_with(model, theirs, ours, reference, feature, None)
    moved = normed_with(model, theirs, ours, reference, feature, kind.clamp or 0.0)
    difference = clean - moved if kind is ZERO_OUT else moved - clean
    if reference.ends is not None:
        return difference[torch.arange(reference.samples), reference.ends].mean(0)
    return difference[:, reference.included].mean((0, 1))


def test_a_value_is_set_in_saelens_s_own_reconstruction(
    architecture, tiny, reference, word_tokenizer, place, tmp_path
):
    theirs, ours = loaded(place, tiny, tmp_path)
    lens = lens_on(ours, tiny, reference, word_tokenizer)
    bound = 1e-9 if architecture == "gpt2" else 1e-4
    moved = 0
    for kind in EVERY:
        for feature, found in zip(FEATURES, carried(lens, kind, ours), strict=True):
            wanted = expected(kind, tiny, theirs, ours, reference, feature)
            assert found.normed
            assert found.n_tokens == reference.n_tokens
            assert (found.vector - wanted).norm() <= bound * wanted.norm()
            moved += float(wanted.norm()) > 0
            assert torch.equal(found.direct, ours.values[feature])
    assert moved >= 6  # of twelve: a random feature may not fire


def layers_of(hf):
    return hf.transformer.h if hasattr(hf, "transformer") else hf.model.layers


@contextmanager
def hooked(module, *, pre, change):
    """`change` applied to what a module of Hugging Face's reads (`pre`), or gives."""

    def before(_module, args):
        return (change(args[0]), *args[1:])

    def after(_module, args, output):
        first = output[0] if isinstance(output, tuple) else output
        made = change(args[0] if pre is None else first)
        return (made, *output[1:]) if isinstance(output, tuple) else made

    handle = (
        module.register_forward_pre_hook(before) if pre else module.register_forward_hook(after)
    )
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("where", ["resid_post", "transcoder", "neurons"])
def test_hooks_on_the_model_of_hugging_face_change_its_logits_alike(
    architecture, tiny, reference, word_tokenizer, where, tmp_path
):
    """Nothing of `lens_core` runs the model here: a plain model, hooks, logits."""
    hf = tiny_hf(architecture)
    layer = 1
    block = layers_of(hf)[layer]
    counts = reference.counts
    if where == "neurons":
        ours = load_dictionary(DictionaryConfig(kind="neurons"), layer, tiny, dtype=torch.float64)
        module = block.mlp.c_proj if architecture == "gpt2" else block.mlp.down_proj
        pre = True

        def set_to(value):
            def change(acts):
                acts = acts.clone()
                if value is not None:
                    acts[..., feature] = torch.where(counts, value, acts[..., feature])
                return acts

            return change
    else:
        spec = Place("sae", layer, "hook_resid_post")
        if where == "transcoder":
            spec = PLACES["transcoder"]
        theirs, ours = loaded(spec, tiny, tmp_path)
        module = block if where == "resid_post" else block.mlp
        pre = False if where == "resid_post" else None

        def set_to(value):
            def change(x):
                acts = theirs.encode(x)
                if value is not None:
                    acts[..., feature] = torch.where(counts, value, acts[..., feature])
                return theirs.decode(acts)

            return change

    fires = ours.encode(read_function(ours, tiny)(tiny.sites(reference.tokens)[ours.read_site])) > 0
    feature = int(fires.sum((0, 1)).argmax())

    def logits(value):
        with torch.no_grad(), hooked(module, pre=pre, change=set_to(value)):
            return hf(reference.tokens).logits

    lens = lens_on(ours, tiny, reference, word_tokenizer)
    shown = lens.signature(layer, feature, also=EVERY).value.top
    clean = logits(None)
    for kind in EVERY:
        moved = logits(kind.clamp or 0.0)
        difference = clean - moved if kind is ZERO_OUT else moved - clean
        wanted = difference[:, reference.included].mean((0, 1))
        found = shown[kind.name]
        size = float(wanted.abs().max())
        best = wanted.topk(K)
        assert list(found.scores) == pytest.approx(best.values.tolist(), abs=1e-4 * size)
        assert wanted[list(found.ids)].tolist() == pytest.approx(
            best.values.tolist(), abs=1e-4 * size
        )
        assert found.n_tokens == reference.n_tokens


@of_one
def test_short_texts_are_read_at_their_last_token(tiny, reference, word_tokenizer, tmp_path):
    ends = torch.tensor([4, 19, 7, 1, 12])
    texts = ReferenceSample(reference.tokens, "test", skip_first=1, ends=ends)
    theirs, ours = loaded(Place("sae", 1, "hook_resid_post"), tiny, tmp_path)
    lens = lens_on(ours, tiny, texts, word_tokenizer)
    for kind in (ZERO_OUT, CHANGES[1]):
        (found,) = carried(lens, kind, ours, [3])
        assert found.n_tokens == 5
        assert relative(found.vector, expected(kind, tiny, theirs, ours, texts, 3)) < 1e-4


def first_of(reference, samples):
    return dataclasses.replace(reference, tokens=reference.tokens[:samples])


def rare(ours, model, reference, feature, share):
    """The same dictionary with a feature that fires on this share of the tokens."""
    h = model.sites(reference.tokens)[ours.read_site][:, reference.included]
    before = ours.pre_activations(h)[..., feature].flatten()
    lowered = before.quantile(1 - share)
    bias = ours.encoder_bias.clone()
    bias[feature] -= lowered
    return dataclasses.replace(
        ours,
        encoder_bias=bias,
        encode=lambda x: torch.relu(x @ ours.keys.T + bias),
        sha256=f"{ours.sha256} {share}",
    )


@of_one
@pytest.mark.parametrize("batch", [None, 1, 2])
def test_zero_out_reads_on_until_the_feature_has_fired_enough(
    tiny, reference, word_tokenizer, tmp_path, monkeypatch, batch
):
    monkeypatch.setattr(finite_differences, "SOURCES", 2 * reference.length)
    theirs, whole = loaded(Place("sae", 1, "hook_resid_post"), tiny, tmp_path)
    ours = rare(whole, tiny, reference, 3, 0.06)
    with torch.no_grad():
        theirs.b_enc.copy_(ours.encoder_bias + theirs.b_dec @ theirs.W_enc)
    fires = ours.encode(tiny.sites(reference.tokens)[ours.read_site])[..., 3] > 0
    samples = (fires & reference.counts).any(1).nonzero()[:, 0].tolist()
    assert samples[:2] != [0, 1]
    lens = lens_on(ours, tiny, reference, word_tokenizer, batch=batch)
    (found,) = carried(lens, ZERO_OUT, ours, [3])
    read = samples[1] + 1
    assert found.n_tokens == read * 17
    part = first_of(reference, read)
    assert relative(found.vector, expected(ZERO_OUT, tiny, theirs, ours, part, 3)) < 1e-4
    (changed,) = carried(lens, CHANGES[0], ours, [3])
    assert changed.n_tokens == 2 * 17
    two = first_of(reference, 2)
    assert relative(changed.vector, expected(CHANGES[0], tiny, theirs, ours, two, 3)) < 1e-4


@of_one
def test_tokens_that_are_asked_for_are_the_first_samples(tiny, reference, word_tokenizer, tmp_path):
    theirs, ours = loaded(Place("sae", 1, "hook_resid_post"), tiny, tmp_path)
    lens = lens_on(ours, tiny, reference, word_tokenizer)
    part = first_of(reference, 3)
    for kind in EVERY:
        for tokens, n_tokens in ((35, 51), (51, 51), (10_000, reference.n_tokens)):
            (found,) = carried(lens, kind, ours, [3], Settings(tokens=tokens))
            assert found.n_tokens == n_tokens
            if n_tokens == 51:
                wanted = expected(kind, tiny, theirs, ours, part, 3)
                assert relative(found.vector, wanted) < 1e-4


@of_one
def test_a_feature_that_does_not_fire_has_no_zero_out(tiny, reference, word_tokenizer, tmp_path):
    _, whole = loaded(Place("sae", 1, "hook_resid_post"), tiny, tmp_path)
    ours = rare(whole, tiny, reference, 3, 0.0)
    bias = ours.encoder_bias - torch.eye(20, dtype=torch.float64)[3] * 1e6
    ours = dataclasses.replace(ours, encode=lambda x: torch.relu(x @ ours.keys.T + bias))
    lens = lens_on(ours, tiny, reference, word_tokenizer)
    shown = lens.signature(1, 3, also=EVERY).value.top
    assert shown["zero-out"].ids == ()
    assert shown["zero-out"].reason == (
        "nothing changes without it in the first 85 tokens of the reference: it does not fire there"
    )
    assert len(shown["token-change:5"].ids) == K


@of_one
def test_a_value_that_a_feature_already_has_changes_nothing(
    tiny, reference, word_tokenizer, tmp_path
):
    _, whole = loaded(Place("sae", 1, "hook_resid_post"), tiny, tmp_path)
    ours = dataclasses.replace(whole, encode=lambda x: torch.ones(*x.shape[:-1], 20).to(x))
    lens = lens_on(ours, tiny, reference, word_tokenizer)
    shown = lens.signature(1, 3, also=EVERY).value.top
    assert shown["token-change:1"].reason.endswith("if it is set to 1")
    assert len(shown["zero-out"].ids) == K


@of_one
def test_results_are_kept_for_each_feature_value_and_number_of_tokens(
    tiny, reference, word_tokenizer, tmp_path, monkeypatch
):
    _, ours = loaded(Place("sae", 1, "hook_resid_post"), tiny, tmp_path / "sae")
    results = ResultCache(tmp_path / "results")
    lens = lens_on(ours, tiny, reference, word_tokenizer, results)
    first = {kind.name: carried(lens, kind, ours) for kind in EVERY}

    def never(*_args):
        raise AssertionError("run again")

    again = lens_on(ours, tiny, reference, word_tokenizer, results)
    monkeypatch.setattr(finite_differences, "normed_end", never)
    for kind in EVERY:
        for one, other in zip(first[kind.name], carried(again, kind, ours), strict=True):
            assert torch.equal(one.vector, other.vector)
            assert one.n_tokens == other.n_tokens
    for asked, features in ((Settings(tokens=20), [3]), (Settings(), [4])):
        with pytest.raises(AssertionError, match="run again"):
            carried(again, ZERO_OUT, ours, features, asked)


@of_one
def test_out_of_memory_halves_what_is_run_together(
    tiny, reference, word_tokenizer, tmp_path, monkeypatch
):
    _, ours = loaded(Place("sae", 1, "hook_resid_post"), tiny, tmp_path)
    wanted = carried(lens_on(ours, tiny, reference, word_tokenizer), CHANGES[0], ours)
    lens = lens_on(ours, tiny, reference, word_tokenizer)
    real, most = finite_differences.normed_end, []

    def small(model, dictionary, of):
        most.append(len(of.reconstruction))
        if most[-1] > 5:
            raise MemoryError
        return real(model, dictionary, of)

    monkeypatch.setattr(finite_differences, "normed_end", small)
    found = carried(lens, CHANGES[0], ours)
    assert max(most) > 5
    for one, other in zip(found, wanted, strict=True):
        assert relative(one.vector, other.vector) < 1e-6


@of_one
def test_what_cannot_be_run_says_why(tiny, reference, word_tokenizer, tmp_path):
    _, ours = loaded(Place("sae", 1, "hook_resid_post"), tiny, tmp_path)
    skip = dataclasses.replace(ours, provenance=dict(ours.provenance) | {"skip": True})
    shown = lens_on(skip, tiny, reference, word_tokenizer).signature(1, 3, also=[ZERO_OUT])
    assert "linear bypass of a skip transcoder" in shown.value.top["zero-out"].reason
    assert shown.key.top["zero-out"].reason == "Zero-Out has no key side"
    lens = lens_on(ours, tiny, reference, word_tokenizer)
    with pytest.raises(UsageError, match="no map of all"):
        ZERO_OUT.map(lens, "value", ours)
    broken = dataclasses.replace(ours, encode=lambda x: x @ ours.keys.T * torch.inf, sha256="x")
    with pytest.raises(DictionaryError, match="not finite"):
        carried(lens_on(broken, tiny, reference, word_tokenizer), ZERO_OUT, broken)
