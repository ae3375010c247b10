"""The lens on SAEs and transcoders at every kind of site, on every architecture.

Dictionaries are made by SAELens, saved, and read back as a user's are; what is expected comes
from SAELens's own object and from derivatives of the stream.
"""

from dataclasses import dataclass, field
from typing import Any

import pytest
import sae_lens
import torch

from lens_core.carry import Carrier
from lens_core.config import DictionaryConfig
from lens_core.dictionaries.feature_dictionary import FeatureDictionary
from lens_core.dictionaries.load import load_dictionary
from lens_core.errors import UsageError
from lens_core.instruments import DictionaryShelf
from lens_core.lens import QueryLens
from lens_core.terms import Settings, block_name
from lens_core.vocabulary import Vocabulary
from tests.fixtures import tolerance
from tests.oracles import mean, push, relative, run, spread

N, K = 20, 10
FEATURES = (3, 11)
DIRECT, OPERATOR = Settings(method="direct"), Settings(method="operator")
EXACT = Settings(convention="exact")


@dataclass(frozen=True)
class Place:
    """A dictionary's kind, layer (negative: from the end), hooks and input normalisation."""

    kind: str
    layer: int
    reads: str
    writes: str | None = None
    normalize: str = "none"


PLACES = {
    "resid_post of the last layer": Place("sae", -1, "hook_resid_post"),
    "resid_pre of the first layer": Place("sae", 0, "hook_resid_pre"),
    "resid_mid behind a layer norm": Place("sae", 1, "hook_resid_mid", normalize="layer_norm"),
    "transcoder": Place("transcoder", 1, "mlp.hook_in", "mlp.hook_out"),
}


@dataclass
class Case:
    """A lens on one dictionary, and the dictionary as SAELens has it."""

    lens: QueryLens
    theirs: Any
    layer: int
    ours: FeatureDictionary = field(init=False)

    def __post_init__(self):
        self.ours = self.lens.dictionary(self.layer)

    def start(self, side, feature):
        """The feature's vector in SAELens's own tensors."""
        theirs = self.theirs.W_dec if side == "value" else self.theirs.W_enc.T
        return theirs[feature].detach()

    def carry(self, side, settings, feature=FEATURES[0]):
        return self.lens.carrier.carry(side, self.ours, feature, settings).vector


def make(place, layer, model_name, d_model):
    """A random SAE or transcoder in float64."""
    told = {"model_name": model_name, "hook_name": f"blocks.{layer}.{place.reads}"}
    sizes = {"d_in": d_model, "d_sae": N, "dtype": "float64"}
    if place.kind == "transcoder":
        told["hook_name_out"] = f"blocks.{layer}.{place.writes}"
        sizes |= {"d_out": d_model, "apply_b_dec_to_input": False}
    architecture = "standard" if place.kind == "sae" else "transcoder"
    sae_class, config_class = sae_lens.registry.get_sae_class(architecture)
    sae = sae_class(
        config_class(
            metadata=sae_lens.saes.sae.SAEMetadata(**told),
            normalize_activations=place.normalize,
            **sizes,
        )
    )
    generator = torch.Generator().manual_seed(8)
    for parameter in sae.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return sae


@pytest.fixture(scope="module", params=PLACES)
def place(request):
    return request.param


@pytest.fixture(scope="module")
def case(tiny, reference, word_tokenizer, operators, place, tmp_path_factory):
    spec = PLACES[place]
    layer = spec.layer % tiny.n_layers
    folder = tmp_path_factory.mktemp("dictionary")
    theirs = make(spec, layer, tiny.name, tiny.d_model)
    theirs.save_model(folder)
    config = DictionaryConfig(kind=spec.kind, path=folder)
    shelf = DictionaryShelf(
        [layer], lambda at: load_dictionary(config, at, tiny, dtype=torch.float64)
    )
    carrier = Carrier(tiny, reference, operators, None)
    lens = QueryLens(carrier, shelf, Vocabulary(word_tokenizer, tiny.d_vocab), k=K)
    return Case(lens, theirs, layer)


@pytest.mark.parametrize("transition", ["full", "first-order"])
@pytest.mark.parametrize("side", ["value", "key"])
def test_operators_carry_a_feature_as_the_direct_method_does(architecture, case, side, transition):
    for feature in FEATURES:
        operator = case.carry(side, OPERATOR.with_transition(transition), feature)
        direct = case.carry(side, DIRECT.with_transition(transition), feature)
        assert relative(operator, direct) < tolerance(architecture)


def test_a_feature_is_carried_from_where_its_hook_says(architecture, tiny, reference, case, place):
    """The paper's convention: the raw columns and rows, whatever norm lies at the dictionary."""
    spec = PLACES[place]
    reads = {"hook_resid_pre": 0, "hook_resid_mid": 1, "hook_resid_post": 2, "mlp.hook_in": 1}
    read = 2 * case.layer + reads[spec.reads]
    written = 2 * case.layer + 2 if spec.writes else read
    feature = FEATURES[0]
    h = tiny.sites(reference.tokens)[written]
    moved = push(
        lambda x: run(tiny, x, written)[-1], h, spread(reference, case.start("value", feature))
    )
    assert relative(case.carry("value", OPERATOR), mean(reference, moved)) < tolerance(architecture)
    start = tiny.embed(reference.tokens).requires_grad_()
    (mean(reference, run(tiny, start, 0, read)[-1]) @ case.start("key", feature)).backward()
    gradient = start.grad[:, reference.included].sum((0, 1))
    assert relative(case.carry("key", OPERATOR), gradient) < tolerance(architecture)


def assert_same_list(one, other):
    assert one.ids == other.ids
    # One product with the vocabulary or several: rounding apart, the same.
    assert one.scores == pytest.approx(other.scores, rel=1e-12, abs=1e-12)


def test_with_no_block_behind_it_query_lens_is_logit_lens(case, place):
    for feature in FEATURES:
        value = case.lens.signature(case.layer, feature).value
        if place == "resid_post of the last layer":
            assert_same_list(value.query_lens, value.logit_lens)
            assert_same_list(value.first_order, value.logit_lens)
            assert set(value.query_lens.moved) == {0}
            assert value.stability == 1
        else:
            assert value.query_lens.ids != value.logit_lens.ids


def test_with_no_block_in_front_of_it_a_key_is_read_as_it_is(case, place):
    for feature in FEATURES:
        key = case.lens.signature(case.layer, feature).key
        best = (case.lens.readouts["embed_centered_cosine"].rows @ case.start("key", feature)).topk(
            K
        )
        if place == "resid_pre of the first layer":
            assert list(key.query_lens.ids) == best.indices.tolist()
            assert key.query_lens.scores == pytest.approx(best.values.tolist(), rel=1e-12)
            assert_same_list(key.first_order, key.query_lens)
            assert key.stability == 1
        else:
            assert list(key.query_lens.ids) != best.indices.tolist()


def test_the_exact_key_is_the_gradient_of_saelens_own_pre_activation(
    architecture, tiny, reference, case, place
):
    """End to end: embed, blocks, norm and encoder, differentiated by autograd in one go."""
    spec, feature = PLACES[place], FEATURES[0]
    start = tiny.embed(reference.tokens).requires_grad_()
    h = run(tiny, start, 0, case.ours.read_site)[-1]
    hooked = tiny.mlp_norm(case.layer)(h) if spec.reads == "mlp.hook_in" else h
    pre = case.theirs.process_sae_in(hooked) @ case.theirs.W_enc + case.theirs.b_enc
    mean(reference, pre)[feature].backward()
    expected = start.grad[:, reference.included].sum((0, 1))
    assert relative(case.carry("key", EXACT), expected) < tolerance(architecture)
    normed = spec.normalize != "none" or spec.kind == "transcoder"
    assert (relative(case.carry("key", Settings()), expected) > 0.1) == normed


def test_the_exact_value_goes_through_the_post_norm_that_it_is_written_in_front_of(
    architecture, tiny, reference, case, place
):
    spec, feature = PLACES[place], FEATURES[0]
    h, site = tiny.sites(reference.tokens), case.ours.write_site
    if spec.kind == "transcoder":
        post = tiny.mlp_post_norm(case.layer) or (lambda x: x)
        at = tiny.mlp_output(case.layer, h[site - 1])

        def end(x):
            return run(tiny, h[site - 1] + post(x), site)[-1]
    else:
        at = h[site]

        def end(x):
            return run(tiny, x, site)[-1]

    moved = push(end, at, spread(reference, case.start("value", feature)))
    expected = mean(reference, moved)
    assert relative(case.carry("value", EXACT), expected) < tolerance(architecture)
    normed = spec.kind == "transcoder" and architecture == "gemma3"
    assert (relative(case.carry("value", Settings()), expected) > 0.1) == normed


@pytest.mark.parametrize("side", ["value", "key"])
def test_shares_of_both_splits_sum_to_one_over_the_blocks_on_the_way(tiny, case, side):
    on_the_way = (
        range(case.ours.write_site, tiny.n_blocks)
        if side == "value"
        else range(case.ours.read_site)
    )
    expected = ["direct", *map(block_name, on_the_way)]
    asked = [
        (settings, split)
        for settings in (OPERATOR, DIRECT, EXACT)
        for split in ("first-reader", "last-writer")
    ]
    for settings, split in asked:
        obstacle = case.lens.carrier.obstacle(side, case.ours, settings)
        if split == "first-reader" and obstacle is not None and on_the_way:
            with pytest.raises(UsageError, match="last-writer"):
                case.lens.paths(side, case.layer, FEATURES[0], settings, split)
            continue
        _, rows = case.lens.paths(side, case.layer, FEATURES[0], settings, split)
        shares = {row.block: row.share for row in rows if row.block != "bias"}
        assert list(shares) == expected
        assert sum(shares.values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("lens_name", ["query", "logit", "first-order"])
@pytest.mark.parametrize("side", ["value", "key"])
def test_search_gives_the_score_that_show_gives(case, side, lens_name):
    attribute = {"query": "query_lens", "logit": "logit_lens", "first-order": "first_order"}
    for feature in FEATURES:
        shown = getattr(
            getattr(case.lens.signature(case.layer, feature), side), attribute[lens_name]
        )
        scores = shown.scores if side == "value" else shown.unit_scores
        for token, score in list(zip(shown.ids, scores, strict=True))[:2]:
            hits = case.lens.search(token, side=side, lens=lens_name, n=N)
            found = dict(zip(hits["feature"], hits["score"], strict=True))
            assert len(found) == N
            assert found[feature] == pytest.approx(score, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("side", ["value", "key"])
def test_search_refuses_the_exact_convention_only_where_a_norm_is(architecture, case, side, place):
    spec = PLACES[place]
    normed = {
        "key": spec.kind == "transcoder" or spec.normalize != "none",
        "value": spec.kind == "transcoder" and architecture == "gemma3",
    }[side]
    if normed:
        with pytest.raises(UsageError, match="search needs operators"):
            case.lens.search(5, side=side, settings=EXACT)
    else:
        exact = case.lens.search(5, side=side, settings=EXACT)
        assert exact.equals(case.lens.search(5, side=side))
