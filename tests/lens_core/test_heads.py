"""Heads: their derivatives, masks and shares against brute force, and models without any."""

from dataclasses import replace

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from lens_core.batch_walk import Route
from lens_core.errors import UsageError
from lens_core.head_shares import check_switch, head_shares
from lens_core.model import ResidualModel
from lens_core.recording import MicroBatch, Recording, stages
from lens_core.reference import ReferenceSample
from lens_core.terms import Settings, block_name, merged, switch_index, switch_names
from lens_core.walk import Walk
from tests.fixtures import tolerance
from tests.lens_core.test_lens import FEATURE, LAYER, make_lens
from tests.oracles import relative, vector
from tests.toys import HeadedToy

SIDES = ("value", "key")
ATTENTION = 2


@pytest.fixture(scope="module")
def bare_lens(tiny, reference, word_tokenizer):
    return make_lens(tiny, reference, word_tokenizer)


@pytest.fixture(scope="module")
def headed():
    return HeadedToy()


@pytest.fixture(scope="module")
def many():
    """Samples enough for three stages, an odd number of them."""
    tokens = torch.randint(0, 101, (11, 6), generator=torch.Generator().manual_seed(6))
    return ReferenceSample(tokens=tokens, origin="test", skip_first=1, skip_last=1)


def without_heads(model, k, off, h, tangent):
    """The block's derivative by its weights: those of the output projection, zero for `off`."""
    attention = model._parts[k // 2][1]
    projection = attention.o.original_component
    is_linear = isinstance(projection, torch.nn.Linear)
    weight = projection.weight.data
    rows = weight.T if is_linear else weight  # d_heads by d_model
    whole, d_head = rows.clone(), rows.shape[0] // model.n_heads(k)
    post = getattr(model._blocks[k // 2], "ln1_post", None)
    plain = model._post_norm
    try:
        model._post_norm = lambda _k, added: added
        real = model.block(k, h)
        for head in off:
            rows[head * d_head : (head + 1) * d_head] = 0
        found = torch.func.jvp(lambda x: model.block(k, x), (h,), (tangent,))[1]
    finally:
        rows.copy_(whole)
        model._post_norm = plain
    if post is None:
        return found
    return torch.func.jvp(lambda x: model._post_norm(k, x), (real,), (found,))[1]


@pytest.mark.parametrize("off", [{0}, {1, 2}, {0, 1, 2}])
def test_a_gated_block_is_the_one_with_those_weights_zero(architecture, tiny, reference, off):
    batch = MicroBatch(tiny, reference.tokens[:2])
    h = batch.site(ATTENTION)
    tangent, cotangent = (
        torch.randn(h.shape, generator=torch.Generator().manual_seed(seed), dtype=h.dtype)
        for seed in (1, 2)
    )
    expected = without_heads(tiny, ATTENTION, off, h, tangent)
    whole = batch.jvp(ATTENTION, tangent)
    got = batch.jvp(ATTENTION, tangent, frozenset(off))
    assert (got - expected).norm() <= tolerance(architecture) * whole.norm()
    back = batch.vjp(ATTENTION, cotangent, frozenset(off))
    there, here = (cotangent * got).sum(), (back * tangent).sum()
    assert abs(there - here) <= tolerance(architecture) * whole.norm() * cotangent.norm()
    # What was recorded still gives the whole block.
    assert torch.equal(batch.jvp(ATTENTION, tangent), whole)
    assert relative(batch.record(ATTENTION).output, tiny.block(ATTENTION, h)) == 0


def jacobian(function, h):
    """Of a function of streams: (positions x d_model) squared."""
    size = h.numel()
    return torch.autograd.functional.jacobian(function, h).reshape(size, size)


def brute_force(model, reference, v, route, off):
    """The transported vector by whole Jacobians of every head, position by position."""
    n, d = reference.tokens.shape[1], model.d_model
    where = range(n)[reference.included]
    total = torch.zeros(d, dtype=model.dtype)
    for tokens in reference.tokens:
        h = model.embed(tokens[None])
        maps = []
        for k in range(model.n_blocks):
            if k % 2:
                full = jacobian(lambda x, k=k: model.block(k, x), h)
                maps.append(torch.zeros_like(full) if k in off else full)
            else:
                maps.append(torch.zeros(n * d, n * d, dtype=model.dtype))
                zs = [model.z(k // 2, head, h) for head in range(2)]
                for head in range(2):
                    if k in off or (k, head) in off:
                        continue

                    def alone(x, k=k, head=head, zs=zs):
                        mine = [*zs[:head], model.z(k // 2, head, x), *zs[head + 1 :]]
                        weights = model.heads[k // 2, :, 3]
                        return torch.tanh(sum(z @ w.T for z, w in zip(mine, weights, strict=True)))

                    maps[-1] = maps[-1] + jacobian(alone, h)
            h = h + model.block(k, h)
        carried = torch.zeros(n, d, dtype=model.dtype)
        carried[list(where)] = v
        carried = carried.flatten()
        for k in route.blocks:
            carried = carried + (maps[k] if route.is_forward else maps[k].T) @ carried
        total += carried.reshape(n, d)[list(where)].sum(0)
    return total / (len(reference.tokens) * len(where))


@pytest.mark.parametrize("off", [{(0, 1)}, {(2, 0)}, {(0, 0), (2, 1), 1}, {(0, 0), (0, 1)}])
@pytest.mark.parametrize("side", SIDES)
def test_a_mask_of_heads_is_brute_force_on_a_toy_that_mixes_positions(headed, many, side, off):
    few = replace(many, tokens=many.tokens[:3])
    route = Route(0, 4) if side == "value" else Route(4, 0)
    v = vector(headed.d_model)
    got, _ = Walk(Recording(headed, few, batch=2), v, route).carried(frozenset(off))
    assert relative(got.vector, brute_force(headed, few, v, route, off)) < 1e-10


@pytest.mark.parametrize("transition", ["full", "first-order"])
@pytest.mark.parametrize("side", SIDES)
def test_heads_add_up_to_their_block_in_every_stage(headed, many, side, transition):
    route = Route(0, 4) if side == "value" else Route(4, 0)
    v = vector(headed.d_model)
    for off in (frozenset(), frozenset({(0, 1), 3})):
        walk = Walk(Recording(headed, many, batch=2), v, route, transition)
        for tokens in stages(many, 8):
            for k in (0, 2):
                heads, n_tokens = walk.of_heads(k, off, tokens)
                whole, expected_tokens = walk.carried(off, tokens)
                assert n_tokens == expected_tokens
                assert (heads.sum(0) - whole.steps[k]).norm() < 1e-12 * whole.vector.norm()
                fresh = Walk(Recording(headed, many, batch=2), v, route, transition)
                assert torch.equal(fresh.of_heads(k, off, tokens)[0], heads)


@pytest.mark.parametrize("transition", ["full", "first-order"])
@pytest.mark.parametrize("side", SIDES)
@settings(max_examples=20, deadline=None)
@given(
    switches=st.lists(
        st.tuples(
            st.sets(st.sampled_from([0, 1, 2, 3, (0, 0), (0, 1), (2, 0), (2, 1)])),
            st.sampled_from([None, 1, 30]),
            st.booleans(),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_whatever_was_switched_before_heads_give_the_same_bits(
    headed, many, side, transition, switches
):
    route = Route(0, 4) if side == "value" else Route(4, 0)
    v = vector(headed.d_model)
    recording = Recording(headed, many, batch=2)
    walk = Walk(recording, v, route, transition)
    for chosen, tokens, forget in switches:
        if forget:
            walk.forget_tangents()
            recording.release()
        off = merged(chosen, headed.n_heads)
        got, _ = walk.carried(off, tokens)
        fresh = Walk(Recording(headed, many, batch=2), v, route, transition)
        expected, _ = fresh.carried(off, tokens)
        assert torch.equal(got.vector, expected.vector)
        assert torch.equal(got.steps, expected.steps)
        assert got.relative_variance == expected.relative_variance


def attention_of(lens, side):
    """The first attention block of a side's path."""
    return min(k for k in lens.carrier.path(side, lens.dictionary(LAYER)) if k % 2 == 0)


@pytest.mark.parametrize("transition", ["full", "first-order"])
@pytest.mark.parametrize("side", SIDES)
def test_all_heads_off_is_the_block_off(bare_lens, tiny, side, transition):
    block = attention_of(bare_lens, side)
    heads = frozenset((block, head) for head in range(tiny.n_heads(block)))
    found = bare_lens.signature(LAYER, FEATURE, Settings(transition, off=heads))
    expected = bare_lens.signature(LAYER, FEATURE, Settings(transition, off=frozenset({block})))
    assert found.side(side).query_lens == expected.side(side).query_lens


@pytest.mark.parametrize(
    ("transition", "split"),
    [("full", "first-reader"), ("full", "last-writer"), ("first-order", "first-order")],
)
@pytest.mark.parametrize("side", SIDES)
def test_the_shares_of_heads_add_up_to_their_blocks(
    architecture, bare_lens, tiny, side, transition, split
):
    dictionary = bare_lens.dictionary(LAYER)
    block = attention_of(bare_lens, side)
    asked = None if split == "first-order" else split
    for off in (frozenset(), frozenset({(block, 1)})):
        if off and split == "first-reader":
            continue
        how = Settings(transition, off=off)
        _, rows = bare_lens.paths(side, LAYER, FEATURE, how, asked)
        chosen, heads, n_tokens = head_shares(
            bare_lens, side, dictionary, FEATURE, how, asked, block
        )
        assert chosen == split
        assert n_tokens == bare_lens.carrier.reference.n_tokens
        whole = next(row.share for row in rows if row.block == block_name(block))
        assert sum(row.share for row in heads) == pytest.approx(
            whole, abs=100 * tolerance(architecture)
        )
        assert [row.on for row in heads] == [(block, i) not in off for i in range(3)]
        assert [row.block for row in heads] == [f"{block_name(block)}.h{i}" for i in range(3)]
        assert len({round(row.share, 9) for row in heads}) == 3
        assert all(bool(row.tokens) == (split != "first-reader") for row in heads if row.on)


@pytest.mark.parametrize("transition", ["full", "first-order"])
@pytest.mark.parametrize("side", SIDES)
def test_what_a_head_costs_is_what_switching_it_off_shows(
    architecture, bare_lens, side, transition
):
    dictionary = bare_lens.dictionary(LAYER)
    block = attention_of(bare_lens, side)
    how = Settings(transition, off=frozenset({(block, 0)}))
    _, rows, _ = head_shares(bare_lens, side, dictionary, FEATURE, how, "ablation", block)
    shown = bare_lens.signature(LAYER, FEATURE, how).side(side).query_lens
    readout = bare_lens.readouts[shown.readout]
    constant = readout.constant(torch.tensor(shown.ids))
    total = sum(shown.scores) - (0 if constant is None else float(constant))
    assert (rows[0].share, rows[0].on, rows[0].overlap) == (0, False, None)
    for head in (1, 2):
        without = replace(how, off=how.off | {(block, head)})
        carried = bare_lens.carrier.carry(side, dictionary, FEATURE, without)
        scores = readout.scores(carried.vector)[list(shown.ids)]
        lost = (sum(shown.scores) - float(scores.sum())) / total
        assert rows[head].share == pytest.approx(lost, abs=100 * tolerance(architecture))


def test_a_head_of_the_key_reads_what_a_small_step_shows(tiny, reference):
    """GPT-2 and the others in float64: a finite difference of the head alone, on all positions."""
    batch = MicroBatch(tiny, reference.tokens[:2])
    h = batch.site(ATTENTION)
    others = frozenset({0, 2})
    t = torch.randn(h.shape, generator=torch.Generator().manual_seed(5), dtype=h.dtype)
    got = batch.jvp(ATTENTION, t, others)
    attention = tiny._parts[ATTENTION // 2][1].o.original_component
    d_head = attention.weight.shape[1 if isinstance(attention, torch.nn.Linear) else 0] // 3
    mine = slice(d_head, 2 * d_head)

    def with_head_of(x):
        """The block at `h`, with head 1 computed at `x`."""
        seen = {}
        read = attention.register_forward_pre_hook(lambda _, args: seen.update(z=args[0]))
        tiny.block(ATTENTION, x)
        read.remove()

        def put(_module, args):
            z = args[0].clone()
            z[..., mine] = seen["z"][..., mine]
            return (z,)

        write = attention.register_forward_pre_hook(put)
        try:
            return tiny.block(ATTENTION, h)
        finally:
            write.remove()

    # Norms and softmax compute in float32 in some: the step is large enough for both errors.
    step = 2e-3
    difference = (with_head_of(h + step * t) - with_head_of(h - step * t)) / (2 * step)
    assert relative(got, difference) < 1e-3


@pytest.fixture(scope="module")
def normed():
    """A model with a norm over all heads before the output projection."""
    config = transformers.BitNetConfig(
        vocab_size=101, hidden_size=24, intermediate_size=40, num_hidden_layers=2,
        num_attention_heads=3, num_key_value_heads=1, max_position_embeddings=64,
        bos_token_id=0, eos_token_id=1, pad_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    return ResidualModel.from_hf(transformers.BitNetForCausalLM(config).double().eval())


def test_heads_that_are_normed_together_are_not_split(normed):
    assert normed.n_heads(0) == 0
    with pytest.raises(UsageError, match=r"attn\.0 cannot be told apart: .*may mix them"):
        check_switch(normed, (0, 1))
    check_switch(normed, 0)


@pytest.mark.parametrize(
    ("switch", "said"),
    [
        ((1, 0), r"mlp\.0 has no heads"),
        ((0, 3), r"no attn\.0\.h3: attn\.0 has heads h0 to h2"),
        (99, r"no block 99"),
        ((98, 0), r"no block 98"),
    ],
)
def test_a_switch_that_the_model_has_not_is_named(tiny, switch, said):
    with pytest.raises(UsageError, match=said):
        check_switch(tiny, switch)


def test_names_of_switches_are_read_back_and_ordered():
    names = ["attn.0", "attn.0.h2", "mlp.0", "attn.1.h0", "attn.1.h11"]
    switches = [switch_index(name) for name in names]
    assert switches == [0, (0, 2), 1, (2, 0), (2, 11)]
    assert switch_names(reversed(switches)) == names
    for wrong in ("attn.1.", "attn.1.h", "attn.1.hx", "attn.h1", "attn.1.h-1", "h1", "attn.1.h²"):
        with pytest.raises(UsageError):
            switch_index(wrong)
    with pytest.raises(UsageError, match="out of range"):
        switch_index("attn.9.h0", 3)


def test_all_heads_of_a_block_are_the_block():
    def three(_block):
        return 3

    assert merged({0, (0, 1), (2, 0)}, three) == {0, (2, 0)}
    assert merged({(2, 0), (2, 1), (2, 2)}, three) == {2}
    assert merged(set(), three) == set()
