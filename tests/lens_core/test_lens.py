"""The lens's answers against the definitions."""

import dataclasses
import math

import pytest
import torch

from lens_core.carry import Carrier
from lens_core.config import DictionaryConfig
from lens_core.dictionaries.feature_dictionary import read_function
from lens_core.dictionaries.load import load_dictionary
from lens_core.direct import key_transition, value_transition
from lens_core.errors import OperatorError, UsageError
from lens_core.feature_scores import ranks_among, scores_among, token_scores
from lens_core.instruments import DictionaryShelf
from lens_core.lens import QueryLens
from lens_core.lenses import QUERY, lens_named
from lens_core.operators.build import assemble, build_operators
from lens_core.operators.plan import plan_build
from lens_core.reference import ReferenceSample
from lens_core.signature import NO_DIRECTION
from lens_core.storage.results import ResultCache
from lens_core.terms import SIDES, Settings, block_index, block_name
from lens_core.vocabulary import Vocabulary
from tests.fixtures import tolerance
from tests.lens_core.test_activity import assert_same
from tests.oracles import (
    first_readers_of_a_key,
    first_readers_of_a_value,
    last_writers_of_a_key,
    last_writers_of_a_value,
    mean,
    push,
    relative,
    run,
    spread,
)

LAYER, FEATURE = 1, 7
DIRECT = Settings(method="direct")
OPERATOR = Settings(method="operator")

of_one = pytest.mark.parametrize("architecture", ["gemma3"], indirect=True, scope="session")
"""For what no architecture has a part in, such as keeping results."""


def neuron_shelf(model):
    config = DictionaryConfig(kind="neurons")
    return DictionaryShelf(
        range(model.n_layers),
        lambda layer: load_dictionary(config, layer, model, dtype=model.dtype),
    )


def make_lens(model, reference, tokenizer, operators=None, results=None):
    carrier = Carrier(model, reference, operators, results)
    return QueryLens(carrier, neuron_shelf(model), Vocabulary(tokenizer, model.d_vocab), k=10)


@pytest.fixture(scope="module")
def lens(tiny, reference, word_tokenizer, operators):
    return make_lens(tiny, reference, word_tokenizer, operators)


@pytest.fixture(scope="module")
def bare_lens(tiny, reference, word_tokenizer):
    """No operators: everything directly."""
    return make_lens(tiny, reference, word_tokenizer)


def test_logit_lens_is_the_plain_products(tiny, lens):
    dictionary = lens.dictionary(LAYER)
    signature = lens.signature(LAYER, FEATURE)
    key_scores = tiny.embedding @ dictionary.keys[FEATURE]
    value_scores = tiny.final_norm(dictionary.values[FEATURE]) @ tiny.W_U
    for side, scores in ((signature.key, key_scores), (signature.value, value_scores)):
        best = scores.topk(10)
        assert list(side.logit_lens.ids) == best.indices.tolist()
        assert side.logit_lens.scores == pytest.approx(best.values.tolist(), rel=1e-6)


def test_operators_and_the_direct_method_give_one_signature(architecture, lens):
    direct = lens.signature(LAYER, FEATURE, DIRECT)
    operator = lens.signature(LAYER, FEATURE, OPERATOR)
    assert (direct.method, operator.method) == ("direct", "operator")
    close = pytest.approx
    for side in ("value", "key"):
        assert getattr(direct, side).relative_variance > 0
        assert getattr(operator, side).relative_variance is None
        for name in ("logit_lens", "query_lens", "first_order"):
            one = getattr(getattr(direct, side), name)
            other = getattr(getattr(operator, side), name)
            assert one.ids == other.ids
            assert other.scores == close(one.scores, rel=10 * tolerance(architecture), abs=1e-5)


def test_all_blocks_off_reads_the_feature_itself(tiny, lens):
    off = Settings(off=frozenset(range(tiny.n_blocks)))
    signature = lens.signature(LAYER, FEATURE, off)
    dictionary = lens.dictionary(LAYER)
    assert signature.value.query_lens.ids == signature.value.logit_lens.ids
    assert signature.value.query_lens.scores == pytest.approx(signature.value.logit_lens.scores)
    identity = lens.signature(LAYER, FEATURE, Settings(transition="identity"))
    assert identity.key.query_lens == signature.key.query_lens
    scores = lens.readouts["embed_centered_cosine"].rows @ dictionary.keys[FEATURE]
    assert list(signature.key.query_lens.ids) == scores.topk(10).indices.tolist()


def test_a_masked_full_transition_goes_the_direct_way_and_differs(lens):
    masked = lens.signature(LAYER, FEATURE, Settings(off=frozenset({5})))
    assert masked.method == "direct"
    assert masked.value.query_lens.scores != lens.signature(LAYER, FEATURE).value.query_lens.scores
    with pytest.raises(UsageError, match=r"blocks are off .* --method direct"):
        lens.signature(LAYER, FEATURE, Settings(off=frozenset({5}), method="operator"))


def test_a_first_order_toggle_is_a_subtraction_operators_can_do(architecture, lens):
    settings = Settings(transition="first-order", off=frozenset({0, 5}))
    operator = lens.signature(LAYER, FEATURE, dataclasses.replace(settings, method="operator"))
    direct = lens.signature(LAYER, FEATURE, dataclasses.replace(settings, method="direct"))
    for side in ("value", "key"):
        one, other = getattr(direct, side).query_lens, getattr(operator, side).query_lens
        assert one.ids == other.ids
        assert other.scores == pytest.approx(one.scores, rel=10 * tolerance(architecture), abs=1e-5)


def test_asking_for_operators_that_are_not_built_says_how_to_build_them(bare_lens):
    assert bare_lens.signature(LAYER, FEATURE).method == "direct"
    with pytest.raises(OperatorError, match="qlens build"):
        bare_lens.signature(LAYER, FEATURE, OPERATOR)
    with pytest.raises(OperatorError, match="qlens build"):
        bare_lens.search(5)


def test_moved_is_the_rise_in_rank_against_logit_lens(tiny, lens):
    value = lens.signature(LAYER, FEATURE).value
    plain = tiny.final_norm(lens.dictionary(LAYER).values[FEATURE]) @ tiny.W_U
    order = plain.argsort(descending=True).tolist()
    expected = [order.index(token) - rank for rank, token in enumerate(value.query_lens.ids)]
    assert list(value.query_lens.moved) == expected
    assert set(value.logit_lens.moved) == {0}


@pytest.mark.parametrize("lens_name", ["query", "logit", "first-order"])
@pytest.mark.parametrize("side", ["value", "key"])
def test_search_scores_are_those_that_show_prints(architecture, lens, side, lens_name):
    attribute = {"query": "query_lens", "logit": "logit_lens", "first-order": "first_order"}
    listed = 0
    for feature in (0, FEATURE, 31):
        shown = getattr(getattr(lens.signature(LAYER, feature), side), attribute[lens_name])
        per_feature = shown.scores if side == "value" else shown.unit_scores
        for token, score in list(zip(shown.ids, per_feature, strict=True))[:3]:
            hits = lens.search(token, side=side, lens=lens_name, layers=[LAYER], n=1000)
            found = hits.filter(hits["feature"] == feature)["score"][0]
            assert found == pytest.approx(score, rel=1e-5, abs=1e-6)
            listed += 1
    assert listed == 9


def test_search_goes_over_layers_and_shows_logit_lens_beside(lens):
    hits = lens.search(5, n=12)
    assert hits["rank"].is_sorted()
    assert set(hits["layer"]) <= set(range(lens.model.n_layers))
    plain = lens.search(5, lens="logit", n=10_000)
    both = hits.join(plain, on=["layer", "feature"], suffix="_plain")
    assert len(both) == 12
    assert both["logit_score"].to_list() == pytest.approx(both["score_plain"].to_list())


@pytest.mark.parametrize("side", ["value", "key"])
def test_what_a_block_favours_is_the_same_by_passes_of_its_own_as_by_operators(lens, side):
    split, rows = lens.paths(side, LAYER, FEATURE)
    assert split == "first-reader"
    blocks = [row for row in rows if row.block not in ("direct", "bias")]
    assert blocks
    for row in blocks:
        ids, texts = lens.block_tokens(side, LAYER, FEATURE, block_index(row.block))
        assert (ids, texts) == (row.ids, row.tokens)


@pytest.mark.parametrize(("side", "block"), [("value", 0), ("key", 5)])
def test_a_block_that_is_not_on_the_way_favours_nothing(lens, side, block):
    with pytest.raises(UsageError, match=f"is not on the {side}.s path"):
        lens.block_tokens(side, LAYER, FEATURE, block)


@pytest.mark.parametrize("kind", ["query", "logit", "first-order"])
@pytest.mark.parametrize("side", ["value", "key"])
def test_a_rank_is_the_place_in_the_features_own_list(lens, side, kind):
    dictionary = lens.dictionary(LAYER)
    d_vocab = lens.model.d_vocab
    for feature in (0, 5, 11):
        signature = getattr(lens.signature(LAYER, feature, length=d_vocab), side)
        ids = getattr(signature, f"{kind}_lens" if kind != "first-order" else "first_order").ids
        for token in (0, 7, d_vocab - 1):
            (ranks,) = ranks_among(
                lens, dictionary, [feature], [token, 1], side, lens_named(kind)
            ).tolist()
            assert [ids[rank - 1] for rank in ranks] == [token, 1]


@pytest.mark.parametrize("lens_name", ["query", "logit", "first-order"])
@pytest.mark.parametrize("side", ["value", "key"])
def test_some_features_have_the_scores_that_they_have_among_all(lens, side, lens_name):
    dictionary, some = lens.dictionary(LAYER), [7, 2, 11]
    among = scores_among(lens, dictionary, some, 5, side, lens_named(lens_name))
    every = token_scores(lens, dictionary, 5, side, lens_named(lens_name))
    assert among.tolist() == pytest.approx(every[some].tolist(), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        Settings(convention="exact"),
        Settings(final_norm="linearize"),
        Settings(off=frozenset({5})),
    ],
)
def test_search_refuses_what_operators_do_not_answer(lens, settings):
    side = "key" if settings.convention == "exact" else "value"
    with pytest.raises(UsageError, match="search needs operators"):
        lens.search(5, side=side, settings=settings)


def test_plain_search_needs_no_operators(bare_lens):
    assert len(bare_lens.search(5, lens="logit", n=3)) == 3


@pytest.mark.parametrize("side", ["value", "key"])
@pytest.mark.parametrize("method", ["operator", "direct"])
@pytest.mark.parametrize("split", ["first-reader", "last-writer"])
def test_shares_sum_to_one_whatever_the_split(lens, side, method, split):
    chosen, rows = lens.paths(side, LAYER, FEATURE, Settings(method=method), split)
    assert chosen == split
    assert sum(row.share for row in rows if row.block != "bias") == pytest.approx(1, abs=1e-5)
    names = [row.block for row in rows if row.block not in ("direct", "bias")]
    path = lens.carrier.path(side, lens.dictionary(LAYER))
    assert len(names) == len(path)


PARTS = {
    ("value", "first-reader"): first_readers_of_a_value,
    ("value", "last-writer"): last_writers_of_a_value,
    ("key", "first-reader"): first_readers_of_a_key,
    ("key", "last-writer"): last_writers_of_a_key,
}


@pytest.mark.parametrize("method", ["operator", "direct"])
@pytest.mark.parametrize(("side", "split"), PARTS)
def test_a_blocks_share_is_its_part_of_the_streams_derivative(
    architecture, tiny, reference, lens, side, split, method
):
    dictionary = lens.dictionary(LAYER)
    if side == "value":
        start, site = dictionary.values[FEATURE], dictionary.write_site
    else:
        start, site = dictionary.keys[FEATURE], dictionary.read_site
    parts = PARTS[side, split](tiny, reference, start, site)
    ids = list(getattr(lens.signature(LAYER, FEATURE), side).query_lens.ids)

    def score(x):
        if side == "key":
            return float((lens.readouts["embed_centered_cosine"].rows[ids] @ x).sum())
        return float((lens.readouts["unembed"].linear(x) @ tiny.W_U[:, ids]).sum())

    total = score(start + parts.sum(0))
    expected = {"direct": score(start) / total}
    for k in range(site, tiny.n_blocks) if side == "value" else range(site):
        expected[block_name(k)] = score(parts[k]) / total
    _, rows = lens.paths(side, LAYER, FEATURE, Settings(method=method), split)
    got = {row.block: row.share for row in rows if row.block != "bias"}
    assert got == pytest.approx(expected, abs=100 * tolerance(architecture))


@pytest.mark.parametrize("side", ["value", "key"])
def test_the_first_reader_split_is_the_same_with_and_without_operators(
    architecture, lens, bare_lens, side
):
    _, operator = lens.paths(side, LAYER, FEATURE, OPERATOR)
    _, direct = bare_lens.paths(side, LAYER, FEATURE)
    for one, other in zip(operator, direct, strict=True):
        assert one.block == other.block
        assert one.share == pytest.approx(other.share, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("transition", ["full", "first-order"])
@pytest.mark.parametrize("side", ["value", "key"])
def test_masked_paths_sum_to_one_and_what_is_off_has_no_share(lens, side, transition):
    off = frozenset({0, 5})
    split, rows = lens.paths(side, LAYER, FEATURE, Settings(transition, off=off))
    assert split == ("last-writer" if transition == "full" else "first-order")
    assert sum(row.share for row in rows if row.block != "bias") == pytest.approx(1, abs=1e-5)
    silent = [row for row in rows if not row.on]
    assert {row.block for row in silent} == {"mlp.2" if side == "value" else "attn.0"}
    assert all(row.share == 0 for row in silent)


def test_shares_and_bias_rebuild_the_signatures_score(architecture, lens):
    _, rows = lens.paths("value", LAYER, FEATURE)
    shown = lens.signature(LAYER, FEATURE).value.query_lens
    bias = [row.share for row in rows if row.block == "bias"]
    assert len(bias) == (architecture == "gpt2")
    carried = lens.carrier.carry("value", lens.dictionary(LAYER), FEATURE, Settings())
    norm = lens.readouts["unembed"].norm
    ids = torch.tensor(shown.ids)
    linear = norm.linear(carried.vector) @ lens.model.W_U[:, ids] / norm.scale(carried.vector)
    assert sum(shown.scores) == pytest.approx(float(linear.sum()) * (1 + sum(bias)), rel=1e-5)


def test_a_vector_of_length_zero_has_no_list_no_share_and_is_never_found(tiny, lens):
    dictionary = lens.dictionary(0)
    hollow = dataclasses.replace(
        dictionary,
        keys=torch.zeros_like(dictionary.keys),
        values=torch.zeros_like(dictionary.values),
        sha256="hollow",
    )
    shelf = DictionaryShelf([0], lambda _layer: hollow)
    empty = QueryLens(lens.carrier, shelf, lens.vocabulary, k=5)
    signature = empty.signature(0, 0, bottom=True)
    for side in SIDES:
        found = signature.side(side)
        for one in (*found.top.values(), *found.bottom.values()):
            assert (one.ids, one.tokens, one.scores, one.moved) == ((), (), (), ())
            assert one.reason == NO_DIRECTION
        assert (found.norm, found.transported_norm) == (0, 0)
        assert (found.stability, found.relative_variance) == (None, None)
        _, rows = empty.paths(side, 0, 0)
        assert all(math.isnan(row.share) and not row.ids for row in rows)
        for name in ("query", "logit", "first-order"):
            assert len(empty.search(5, side=side, lens=name, layers=[0], n=3)) == 0


@pytest.mark.parametrize("side", SIDES)
def test_search_passes_over_single_vectors_of_length_zero(lens, side):
    dictionary = lens.dictionary(0)
    vectors = (dictionary.values if side == "value" else dictionary.keys).clone()
    vectors[1::2] = 0
    some = dataclasses.replace(dictionary, **{f"{side}s": vectors}, sha256=f"some {side}")
    shelf = DictionaryShelf([0], lambda _layer: some)
    found = QueryLens(lens.carrier, shelf, lens.vocabulary, k=5).search(
        5, side=side, layers=[0], n=len(vectors)
    )
    assert sorted(found["feature"]) == list(range(0, len(vectors), 2))


def test_positions_early_and_late_add_up_to_all(tiny, reference, lens):
    """The mean over all positions is that of both buckets, weighted by their tokens."""
    dictionary, counts = lens.dictionary(LAYER), {"early": 15, "late": 2}
    assert sum(counts.values()) * reference.samples == reference.n_tokens
    for side in SIDES:
        whole = lens.carrier.carry(side, dictionary, FEATURE, Settings()).vector
        parts = sum(
            n * lens.carrier.carry(side, dictionary, FEATURE, Settings(positions=where)).vector
            for where, n in counts.items()
        )
        assert torch.allclose(parts / 17, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("where", ["early", "late"])
def test_operators_and_passes_agree_on_where_the_feature_sits(
    architecture, tiny, reference, lens, where
):
    dictionary = lens.dictionary(LAYER)
    for side in SIDES:
        both = [
            lens.carrier.carry(
                side, dictionary, FEATURE, Settings(positions=where, method=method)
            ).vector
            for method in ("operator", "direct")
        ]
        assert torch.allclose(*both, rtol=tolerance(architecture) * 1e2, atol=1e-7)
        shares = [
            lens.paths(side, LAYER, FEATURE, Settings(positions=where, method=method))
            for method in ("operator", "direct")
        ]
        assert shares[0][0] == shares[1][0] == "first-reader"
        for one, other in zip(shares[0][1], shares[1][1], strict=True):
            assert one.share == pytest.approx(other.share, abs=1e-4)


def test_positions_that_no_sample_has_are_refused(tiny, lens):
    short = ReferenceSample(tokens=torch.arange(20).view(2, 10), origin="short")
    carrier = Carrier(tiny, short, None, None)
    with pytest.raises(UsageError, match="the reference has no late positions"):
        carrier.carry("value", lens.dictionary(LAYER), FEATURE, Settings(positions="late"))


def test_the_first_reader_split_is_refused_under_a_mask(lens):
    with pytest.raises(UsageError, match="last-writer"):
        lens.paths("value", LAYER, FEATURE, Settings(off=frozenset({5})), "first-reader")


def test_the_exact_key_is_the_gradient_of_the_mean_pre_activation(
    architecture, tiny, reference, lens
):
    """End to end: embed, walk, norm, encoder, differentiated by autograd in one go."""
    dictionary = lens.dictionary(LAYER)
    start = tiny.embed(reference.tokens).requires_grad_()
    h = start
    for k in range(dictionary.read_site):
        h = h + tiny.block(k, h)
    x = read_function(dictionary, tiny)(h)[:, reference.included]
    dictionary.pre_activations(x)[..., FEATURE].sum().backward()
    expected = start.grad[:, reference.included].sum((0, 1)) / reference.n_tokens
    settings = Settings(convention="exact")
    got = lens.carrier.carry("key", dictionary, FEATURE, settings).vector
    assert float((got - expected).norm()) < tolerance(architecture) * float(expected.norm())
    assert lens.signature(LAYER, FEATURE, settings).method == "direct"


def test_the_exact_value_goes_through_the_post_norm_where_there_is_one(
    architecture, tiny, reference, lens
):
    exact = lens.carrier.carry(
        "value", lens.dictionary(LAYER), FEATURE, Settings(convention="exact")
    )
    paper = lens.carrier.carry("value", lens.dictionary(LAYER), FEATURE, Settings())
    same = torch.allclose(exact.vector, paper.vector, rtol=1e-3)
    assert same == (architecture != "gemma3")
    # Every neuron writes into the MLP's own output, in front of a post-norm.
    h_mid = tiny.sites(reference.tokens)[2 * LAYER + 1]
    post = tiny.mlp_post_norm(LAYER) or (lambda x: x)

    def end(raw):
        return run(tiny, h_mid + post(raw), 2 * LAYER + 2)[-1]

    written = spread(reference, lens.dictionary(LAYER).values[FEATURE])
    expected = mean(reference, push(end, tiny.mlp_output(LAYER, h_mid), written))
    assert relative(exact.vector, expected) < tolerance(architecture)


def test_the_linearised_final_norm_is_the_gradient_of_the_mean_logits(
    architecture, tiny, reference, lens
):
    dictionary = lens.dictionary(LAYER)
    h = tiny.sites(reference.tokens)[dictionary.write_site]
    kept = reference.included
    written = torch.zeros_like(h)
    written[:, kept] = dictionary.values[FEATURE]

    def logits(x):
        for k in range(dictionary.write_site, tiny.n_blocks):
            x = x + tiny.block(k, x)
        return tiny.unembed(tiny.final_norm(x))[:, kept].mean((0, 1))

    expected = torch.func.jvp(logits, (h,), (written,))[1]
    settings = Settings(final_norm="linearize")
    shown = lens.signature(LAYER, FEATURE, settings).value.query_lens
    assert list(shown.ids) == expected.topk(10).indices.tolist()
    assert shown.scores == pytest.approx(expected.topk(10).values.tolist(), rel=1e-4, abs=1e-6)
    chosen, rows = lens.paths("value", LAYER, FEATURE, settings)
    assert chosen == "last-writer"
    assert sum(row.share for row in rows) == pytest.approx(1, abs=1e-5)


def test_stability_is_the_overlap_of_the_lists_of_the_two_halves(tiny, reference, lens):
    dictionary, seen = lens.dictionary(LAYER), set()
    halves = [
        dataclasses.replace(reference, tokens=reference.tokens[half])
        for half in reference.split_halves()
    ]
    assert [half.samples for half in halves] == [2, 3]
    for feature in (0, FEATURE, 31):
        signature = lens.signature(LAYER, feature)
        for side in ("value", "key"):
            lists = []
            for half in halves:
                if side == "value":
                    v, site = dictionary.values[feature], dictionary.write_site
                    carried = value_transition(tiny, half, v, site).vector
                    scores = tiny.unembed(tiny.final_norm(carried))
                else:
                    k, site = dictionary.keys[feature], dictionary.read_site
                    scores = (
                        lens.readouts["embed_centered_cosine"].rows
                        @ key_transition(tiny, half, k, site).vector
                    )
                lists.append(set(scores.topk(10).indices.tolist()))
            expected = len(lists[0] & lists[1]) / len(lists[0] | lists[1])
            assert getattr(signature, side).stability == pytest.approx(expected)
            seen.add(expected)
    assert len(seen - {1.0}) > 1


@of_one
def test_halves_that_are_alike_are_perfectly_stable(tiny, reference, word_tokenizer, tmp_path):
    twice = ReferenceSample(torch.cat([reference.tokens[:2]] * 2), origin="test")
    build_operators(tiny, twice, plan_build(tiny, "weights", twice), tmp_path)
    signature = make_lens(tiny, twice, word_tokenizer, assemble(tmp_path)).signature(LAYER, FEATURE)
    assert signature.value.stability == signature.key.stability == 1


class ComputedError(Exception):
    """What a result that is not in the cache costs in these tests."""


@pytest.fixture
def nothing_computes(monkeypatch):
    """Calling this makes passes impossible, so that only cached results can be used."""

    def computes(*args, **kwargs):
        raise ComputedError

    def forbid():
        monkeypatch.setattr("lens_core.walk.Walk.carried", computes)
        monkeypatch.setattr("lens_core.lens.feature_activity", computes)

    return forbid


MASKED = Settings(off=frozenset({0, 4}))


def test_a_side_whose_blocks_are_all_on_is_answered_by_operators(lens):
    last = max(lens.carrier.path("value", lens.dictionary(LAYER)))
    switched = lens.signature(LAYER, FEATURE, Settings(off=frozenset({last})))
    whole = lens.signature(LAYER, FEATURE)
    assert (switched.value.operators, switched.key.operators) == ("none", "built")
    assert switched.method == "direct"
    assert switched.key == whole.key
    assert switched.value != whole.value


@pytest.fixture
def answered(tiny, reference, word_tokenizer, tmp_path):
    """A lens on a cache with the results of another lens, and these results."""

    def fresh(**changes):
        asked = dataclasses.replace(reference, **changes)
        return make_lens(tiny, asked, word_tokenizer, results=ResultCache(tmp_path))

    before = fresh()
    answers = (
        before.signature(LAYER, FEATURE, MASKED),
        before.paths("value", LAYER, FEATURE),
        before.paths("key", LAYER, FEATURE),
        before.paths("key", LAYER, FEATURE, split="last-writer"),
        before.activity(LAYER),
    )
    return fresh, answers


@of_one
def test_results_come_back_from_the_cache_as_they_were(answered, nothing_computes):
    fresh, (signature, value, key, last_writer, activity) = answered
    nothing_computes()
    assert fresh().signature(LAYER, FEATURE, MASKED) == signature
    assert fresh().paths("value", LAYER, FEATURE) == value
    assert fresh().paths("key", LAYER, FEATURE) == key
    assert fresh().paths("key", LAYER, FEATURE, split="last-writer") == last_writer
    assert_same(fresh().activity(LAYER), activity)


@of_one
def test_what_was_not_asked_before_is_not_in_the_cache(answered, nothing_computes):
    fresh, _ = answered
    nothing_computes()
    for layer, feature, settings in [
        (LAYER, FEATURE + 1, MASKED),
        (LAYER + 1, FEATURE, MASKED),
        (LAYER, FEATURE, Settings(off=frozenset({5}))),
        (LAYER, FEATURE, dataclasses.replace(MASKED, convention="exact")),
        (LAYER, FEATURE, dataclasses.replace(MASKED, final_norm="linearize")),
    ]:
        with pytest.raises(ComputedError):
            fresh().signature(layer, feature, settings)
    with pytest.raises(ComputedError):
        fresh().activity(LAYER + 1)


@of_one
@pytest.mark.parametrize("changes", [{"skip_first": 0}, {"tokens": torch.arange(40).view(2, 20)}])
def test_another_reference_finds_nothing_in_the_cache(answered, nothing_computes, changes):
    fresh, _ = answered
    nothing_computes()
    with pytest.raises(ComputedError):
        fresh(**changes).signature(LAYER, FEATURE, MASKED)
    with pytest.raises(ComputedError):
        fresh(**changes).paths("value", LAYER, FEATURE)
    with pytest.raises(ComputedError):
        fresh(**changes).activity(LAYER)


@of_one
@pytest.mark.parametrize(
    ("what", "now"),
    [
        ("lens_core.kept_results.RESULTS_FORMAT", -1),
        ("lens_core.kept_results.versions", lambda: {"torch": "0"}),
    ],
    ids=["format", "version"],
)
def test_another_format_or_version_finds_nothing_in_the_cache(
    answered, nothing_computes, monkeypatch, what, now
):
    fresh, _ = answered
    nothing_computes()
    monkeypatch.setattr(what, now)
    with pytest.raises(ComputedError):
        fresh().signature(LAYER, FEATURE, MASKED)


@pytest.mark.parametrize(
    ("layer", "feature", "says"),
    [(99, 0, "no dictionary for layer 99"), (1, 4000, "features 0 to"), (1, -1, "out of range")],
)
def test_a_feature_that_is_not_there_names_the_range(lens, layer, feature, says):
    with pytest.raises(UsageError, match=says):
        lens.signature(layer, feature)


def test_a_token_id_out_of_range_names_the_range(lens):
    with pytest.raises(UsageError, match="ids 0 to 100"):
        lens.search(101)


def test_a_token_is_found_by_its_text(lens):
    assert lens.vocabulary.id_of("w17") == 17
    assert lens.vocabulary.texts([17, 18]) == ["w17", "w18"]
    with pytest.raises(UsageError, match=r"'w17 w18' is not one token but 'w17' \+ 'w18'"):
        lens.vocabulary.id_of("w17 w18")
    with pytest.raises(UsageError, match="empty"):
        lens.vocabulary.id_of("")


def test_an_unknown_word_is_no_token_although_it_encodes_to_one_id(lens):
    with pytest.raises(UsageError, match="'unheard' is not one token but '<unk>'"):
        lens.vocabulary.id_of("unheard")
    assert lens.vocabulary.id_of("<unk>") == 2


def test_a_split_is_refused_where_the_transition_has_only_its_own(lens):
    with pytest.raises(UsageError, match="split: remove --split"):
        lens.paths("value", LAYER, FEATURE, Settings("first-order"), "first-reader")


def test_token_scores_never_fall_back_to_logit_lens(bare_lens):
    with pytest.raises(OperatorError, match="qlens build"):
        token_scores(bare_lens, bare_lens.dictionary(LAYER), 5, "value", QUERY)


def test_a_shelf_keeps_what_fits_and_drops_the_longest_unused(tiny):
    loaded = []

    def load(layer):
        loaded.append(layer)
        return neuron_shelf(tiny)[layer]

    one = neuron_shelf(tiny)[0]
    room_for_two = 2 * 2 * (one.keys.nbytes + one.values.nbytes)
    shelf = DictionaryShelf(range(3), load, room_for_two)
    for layer in (0, 1, 0, 2, 0, 1):
        assert shelf[layer].layer == layer
    assert loaded == [0, 1, 2, 1]
    assert DictionaryShelf(range(3), load, 0)[2].layer == 2
