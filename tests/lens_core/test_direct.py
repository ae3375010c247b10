"""Direct transitions against brute force, finite differences, adjoints and each other."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lens_core.direct import key_transition, pull_back, push_forward, value_transition
from lens_core.linearization import Linearization, LinearMap
from lens_core.reference import ReferenceSample
from tests.fixtures import tolerance
from tests.oracles import (
    last_writers_of_a_key,
    last_writers_of_a_value,
    mean,
    push,
    relative,
    spread,
    vector,
)
from tests.toys import LinearToy, MixingToy

WALKS = {
    "value": (value_transition, last_writers_of_a_value),
    "key": (key_transition, last_writers_of_a_key),
}


def brute_force(model, reference, from_site, to_site):
    """The mean of d h_to[s] / d h_from[s'] over what counts, from the whole Jacobian."""
    kept = reference.included
    total = torch.zeros(model.d_model, model.d_model, dtype=torch.float64)
    for sample in reference.tokens:
        start = model.run(model.embed(sample[None]), 0, from_site)
        jacobian = torch.autograd.functional.jacobian(
            lambda h: model.run(h, from_site, to_site), start
        )[0, :, :, 0]  # [pos out, d, pos in, d]
        total += jacobian[kept][:, :, kept].sum((0, 2))
    return total / reference.n_tokens


@pytest.fixture(scope="module")
def short():
    tokens = torch.randint(0, 101, (3, 6), generator=torch.Generator().manual_seed(5))
    return ReferenceSample(tokens=tokens, origin="test", skip_first=1, skip_last=1)


@pytest.mark.parametrize("site", range(5))
def test_a_full_value_transition_is_the_mean_jacobian_to_the_end(toy, short, site):
    expected = brute_force(toy, short, site, toy.n_blocks) @ vector(5)
    got = value_transition(toy, short, vector(5), site).vector
    assert relative(got, expected) < 1e-10


@pytest.mark.parametrize("site", range(5))
def test_a_full_key_transition_is_the_transposed_mean_jacobian_from_the_input(toy, short, site):
    expected = vector(5) @ brute_force(toy, short, 0, site)
    got = key_transition(toy, short, vector(5), site).vector
    assert relative(got, expected) < 1e-10


def test_the_jacobian_is_what_a_small_step_of_the_stream_shows(toy, short):
    """Central differences: error of second order in the step, about 1e-9 at 1e-4."""
    step, kept, v, site = 1e-4, short.included, vector(5), 2
    nudge = torch.zeros(*short.tokens.shape, 5, dtype=torch.float64)
    nudge[:, kept] = v
    h = toy.run(toy.embed(short.tokens), 0, site)
    ends = [toy.run(h + sign * step * nudge, site)[:, kept] for sign in (1, -1)]
    expected = ((ends[0] - ends[1]) / (2 * step)).mean((0, 1))
    assert relative(value_transition(toy, short, v, site).vector, expected) < 1e-7


def test_gpt2s_transition_is_what_a_small_step_shows(architecture, tiny, reference):
    if architecture != "gpt2":
        pytest.skip("its float32 norms and softmax drown a float64 difference quotient")
    step, kept, v, site = 1e-5, reference.included, vector(24), 3
    h = tiny.sites(reference.tokens)[site]
    nudge = torch.zeros_like(h)
    nudge[:, kept] = v
    ends = []
    for sign in (1, -1):
        moved = h + sign * step * nudge
        for k in range(site, tiny.n_blocks):
            moved = moved + tiny.block(k, moved)
        ends.append(moved[:, kept])
    expected = ((ends[0] - ends[1]) / (2 * step)).mean((0, 1))
    assert relative(value_transition(tiny, reference, v, site).vector, expected) < 1e-6


def test_forward_and_reverse_mode_of_every_block_are_adjoint(architecture, tiny, reference):
    recording = Linearization(tiny, reference.tokens, forward_mode=True)
    generator = torch.Generator().manual_seed(0)
    for block in recording.blocks:
        tangent, cotangent = torch.randn(2, *recording.shape, generator=generator).double()
        pushed = (block.jvp(tangent) * cotangent).sum()
        pulled = (tangent * block.vjp(cotangent)).sum()
        scale = block.jvp(tangent).norm() * cotangent.norm()
        assert abs(float(pushed - pulled)) < tolerance(architecture) * float(scale)


def test_the_recorded_forward_mode_is_torchs_own(architecture, tiny, reference):
    h = tiny.sites(reference.tokens)
    tangent = torch.randn(*h[0].shape, generator=torch.Generator().manual_seed(1)).double()
    for k in range(tiny.n_blocks):
        expected = torch.func.jvp(lambda x, k=k: tiny.block(k, x), (h[k],), (tangent,))[1]
        recorded = LinearMap(lambda x, k=k: tiny.block(k, x), h[k], forward_mode=True)
        assert relative(recorded.jvp(tangent), expected) < tolerance(architecture)


def test_many_vectors_at_once_are_those_vectors_one_by_one(tiny, reference):
    recording = Linearization(tiny, reference.tokens, forward_mode=True)
    many = torch.randn(3, *recording.shape, generator=torch.Generator().manual_seed(2)).double()
    for block in recording.blocks[:2]:
        assert relative(block.jvp(many)[1], block.jvp(many[1])) < 1e-6
        assert relative(block.vjp(many)[2], block.vjp(many[2])) < 1e-6


@pytest.fixture(scope="module")
def two_blocks():
    generator = torch.Generator().manual_seed(4)
    attention, mlp = torch.randn(2, 3, 3, generator=generator, dtype=torch.float64)
    table = torch.randn(101, 3, generator=generator, dtype=torch.float64)
    return LinearToy(attention, mlp, table)


def test_masks_of_two_blocks_are_the_products_one_writes_down(two_blocks, short):
    a, m, v = two_blocks.attention, two_blocks.mlp, vector(3)
    identity = torch.eye(3, dtype=torch.float64)
    by_hand = {
        (): (identity + m) @ (identity + a) @ v,
        (0,): (identity + m) @ v,
        (1,): (identity + a) @ v,
        (0, 1): v,
    }
    for off, expected in by_hand.items():
        got = value_transition(two_blocks, short, v, 0, off=frozenset(off))
        assert relative(got.vector, expected) < 1e-12
        got = key_transition(two_blocks, short, v, 2, off=frozenset(off))
        k_expected = {
            (): (identity + a).T @ (identity + m).T @ v,
            (0,): (identity + m).T @ v,
            (1,): (identity + a).T @ v,
            (0, 1): v,
        }[off]
        assert relative(got.vector, k_expected) < 1e-12


@settings(max_examples=15, deadline=None)
@given(off=st.frozensets(st.integers(0, 3)), site=st.integers(0, 4))
def test_any_mask_is_the_chain_with_those_blocks_left_out(off, site):
    toy = MixingToy()
    tokens = torch.randint(0, 101, (2, 5), generator=torch.Generator().manual_seed(6))
    reference = ReferenceSample(tokens=tokens, origin="test")
    v = vector(5)
    h, running = toy.run(toy.embed(tokens), 0, site), v.expand(2, 5, 5)
    for k in range(site, 4):
        added, step = torch.func.jvp(lambda x, k=k: toy.block(k, x), (h,), (running,))
        running = running if k in off else running + step
        h = h + added
    got = value_transition(toy, reference, v, site, off=off)
    assert relative(got.vector, running.mean((0, 1))) < 1e-10


@settings(max_examples=15, deadline=None)
@given(off=st.frozensets(st.integers(0, 3)), site=st.integers(0, 4))
def test_any_masked_key_is_the_gradient_with_those_blocks_held_still(off, site):
    toy = MixingToy()
    tokens = torch.randint(0, 101, (2, 5), generator=torch.Generator().manual_seed(6))
    reference = ReferenceSample(tokens=tokens, origin="test", skip_first=1)
    k = vector(5)
    start = toy.embed(tokens).requires_grad_()
    h = start
    for block in range(site):
        added = toy.block(block, h)
        h = h + (added.detach() if block in off else added)
    (mean(reference, h) @ k).backward()
    expected = start.grad[:, reference.included].sum((0, 1))
    got = key_transition(toy, reference, k, site, off=off)
    assert relative(got.vector, expected) < 1e-10
    assert not bool(got.steps[sorted(off)].any())


@pytest.mark.parametrize("transition", ["full", "first-order"])
def test_all_blocks_off_is_the_feature_itself(tiny, reference, transition):
    v, everything = vector(24), frozenset(range(tiny.n_blocks))
    for walk, site in ((value_transition, 1), (key_transition, tiny.n_blocks - 1)):
        got = walk(tiny, reference, v, site, transition=transition, off=everything)
        assert relative(got.vector, v) < 1e-12
        assert got.relative_variance < 1e-12


def test_identity_is_the_feature_itself(tiny, reference):
    v = vector(24)
    assert (
        relative(value_transition(tiny, reference, v, 2, transition="identity").vector, v) < 1e-12
    )


def assert_steps(got, expected, bound):
    for k, (one, other) in enumerate(zip(got, expected, strict=True)):
        assert float((one - other).norm()) <= bound, k


@pytest.mark.parametrize("off", [frozenset(), frozenset({2, 3})], ids=["all on", "2 and 3 off"])
@pytest.mark.parametrize("side", WALKS)
def test_a_step_is_what_the_stream_moves_more_behind_its_block(
    architecture, tiny, reference, side, off
):
    walk, oracle = WALKS[side]
    v = vector(24)
    for site in (1, tiny.n_blocks - 1):
        got = walk(tiny, reference, v, site, off=off)
        expected = oracle(tiny, reference, v, site, off)
        assert_steps(got.steps, expected, tolerance(architecture) * float(got.vector.norm()))
        on = set(range(site, tiny.n_blocks) if side == "value" else range(site)) - off
        assert {k for k, step in enumerate(got.steps) if bool(step.any())} == on
        assert relative(got.direct, v) < 1e-12


@pytest.mark.parametrize("side", WALKS)
@pytest.mark.parametrize("site", range(5))
def test_the_toys_steps_are_those_of_its_stream(toy, short, side, site):
    walk, oracle = WALKS[side]
    got, expected = walk(toy, short, vector(5), site), oracle(toy, short, vector(5), site)
    assert_steps(got.steps, expected, 1e-12 * float(got.vector.norm()))


def test_first_order_is_the_feature_and_each_blocks_response_to_it(architecture, tiny, reference):
    v, site, off = vector(24), 2, frozenset({4})
    value = value_transition(tiny, reference, v, site, transition="first-order", off=off)
    key = key_transition(tiny, reference, v, 5, transition="first-order", off=off)
    bound = tolerance(architecture) * float(value.vector.norm())
    sites, written = tiny.sites(reference.tokens), spread(reference, v)
    responses, answers = torch.zeros_like(value.steps), torch.zeros_like(key.steps)
    for k in set(range(tiny.n_blocks)) - off:
        if k >= site:
            responses[k] = mean(reference, push(lambda x, k=k: tiny.block(k, x), sites[k], written))
        if k < 5:
            x = sites[k].detach().requires_grad_()
            (mean(reference, tiny.block(k, x)) @ v).backward()
            answers[k] = x.grad[:, reference.included].sum((0, 1))
    assert_steps(value.steps, responses, bound)
    assert_steps(key.steps, answers, bound)
    assert relative(value.direct, v) < 1e-12
    assert relative(key.direct, v) < 1e-12


def test_a_functional_pulled_back_reads_every_site(architecture, tiny, reference):
    w, v = vector(24, 1), vector(24, 2)
    pulled = pull_back(tiny, reference, w, batch=2)
    pushed = push_forward(tiny, reference, w, batch=2)
    for site in range(tiny.n_blocks + 1):
        value = value_transition(tiny, reference, v, site).vector
        key = key_transition(tiny, reference, v, site).vector
        scale = float(w.norm())
        bound = tolerance(architecture) * scale
        assert abs(float(pulled[site] @ v - w @ value)) < bound * float(value.norm())
        assert abs(float(pushed[site] @ v - w @ key)) < bound * float(key.norm())


def test_the_batch_does_not_change_the_result(tiny, reference):
    v = vector(24)
    whole = value_transition(tiny, reference, v, 1, batch=5)
    parts = value_transition(tiny, reference, v, 1, batch=2)
    assert relative(parts.vector, whole.vector) < 1e-6
    assert abs(parts.relative_variance - whole.relative_variance) < 1e-6


def test_relative_variance_is_that_of_the_tokens_vectors(toy, short):
    v, kept = vector(5), short.included
    tangent = torch.zeros(*short.tokens.shape, 5, dtype=torch.float64)
    tangent[:, kept] = v
    h = toy.run(toy.embed(short.tokens), 0, 1)
    each = torch.func.jvp(lambda x: toy.run(x, 1), (h,), (tangent,))[1][:, kept].reshape(-1, 5)
    expected = (each - each.mean(0)).square().sum(-1).mean() / each.square().sum(-1).mean()
    got = value_transition(toy, short, v, 1).relative_variance
    assert abs(got - float(expected)) < 1e-10


def test_a_linearised_final_norm_is_inside_the_mean(toy, short):
    v, site = vector(5), 1
    h = toy.run(toy.embed(short.tokens), 0, site)

    def normed(tangent):
        return mean(short, push(toy.final_norm, toy.run(h, site), tangent))

    got = value_transition(toy, short, v, site, linearize_final_norm=True)
    assert got.normed
    whole = push(lambda x: toy.final_norm(toy.run(x, site)), h, spread(short, v))
    assert relative(got.vector, mean(short, whole)) < 1e-10
    assert relative(got.direct, normed(spread(short, v))) < 1e-10
    moved = [
        normed(push(lambda x, last=last: toy.run(x, site, last), h, spread(short, v)))
        for last in range(site, toy.n_blocks + 1)
    ]
    assert_steps(got.steps[site:], torch.stack(moved).diff(dim=0), 1e-10)


def test_a_norm_in_front_of_a_key_carries_its_own_jacobian(toy, short):
    k, kept, site = vector(5), short.included, 2

    def reads(x):
        return toy.final_norm(toy.run(x, 0, site))

    start = toy.embed(short.tokens).requires_grad_()
    preactivations = (reads(start)[:, kept] @ k).sum()
    (gradient,) = torch.autograd.grad(preactivations, start)
    expected = gradient[:, kept].sum((0, 1)) / short.n_tokens
    got = key_transition(toy, short, k, site, read_norm=toy.final_norm).vector
    assert relative(got, expected) < 1e-10


def test_a_norm_behind_a_value_carries_its_own_jacobian(toy, short):
    v, kept, site = vector(5), short.included, 2
    h_mid = toy.run(toy.embed(short.tokens), 0, 1)
    raw = toy.mlp_output(0, h_mid)
    tangent = torch.zeros_like(raw)
    tangent[:, kept] = v

    def through_the_norm(amount):
        moved = toy.final_norm(raw + amount * tangent) - toy.final_norm(raw)
        return toy.run(toy.run(h_mid, 1, 2) + moved, site)[:, kept].mean((0, 1))

    expected = (through_the_norm(1e-5) - through_the_norm(-1e-5)) / 2e-5
    got = value_transition(toy, short, v, site, write_norm=toy.final_norm).vector
    assert relative(got, expected) < 1e-7


def test_memory_running_out_halves_the_batch_and_goes_on(toy, short):
    class Tight(MixingToy):
        def block(self, k, h):
            if len(h) > 1:
                raise torch.OutOfMemoryError("out of memory")
            return super().block(k, h)

    v = vector(5)
    got = value_transition(Tight(), short, v, 1, batch=3).vector
    assert relative(got, value_transition(toy, short, v, 1).vector) < 1e-12


def test_an_error_that_is_not_memory_is_not_swallowed(short):
    class Broken(MixingToy):
        def block(self, k, h):
            raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        value_transition(Broken(), short, vector(5), 1)


@pytest.mark.parametrize("walk", [value_transition, key_transition])
@pytest.mark.parametrize("site", [0, 2, 4])
def test_progress_counts_the_blocks_of_every_micro_batch_up_to_all_of_them(toy, short, walk, site):
    told = []
    walk(toy, short, vector(5), site, batch=2, progress=lambda *now: told.append(now))
    blocks = toy.n_blocks if walk is value_transition else 2 * site  # recorded, and walked back
    if not blocks:
        assert told == [(short.samples, short.samples)]
        return
    starts = [2 * k for k in range(blocks)] + [2 * blocks + k for k in range(blocks)]
    assert told == [(at, 3 * blocks) for at in (*starts, 3 * blocks)]
