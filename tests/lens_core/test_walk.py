"""Walks over a recording against the direct method, in any order of stages and switches."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lens_core.batch_walk import Route
from lens_core.direct import key_transition, pull_back, push_forward, value_transition
from lens_core.errors import ModelError, UsageError
from lens_core.linearization import block_bytes
from lens_core.recording import MicroBatch, Recording, stages
from lens_core.reference import ReferenceSample
from lens_core.walk import Walk
from tests.fixtures import tolerance
from tests.oracles import relative, vector

SITE = 2
NONE = frozenset()


def routes(model):
    return {
        "value": (Route(SITE, model.n_blocks), value_transition),
        "key": (Route(SITE + 1, 0), key_transition),
    }


@pytest.fixture(scope="module")
def many():
    """Samples enough for three stages, an odd number of them."""
    tokens = torch.randint(0, 101, (11, 6), generator=torch.Generator().manual_seed(6))
    return ReferenceSample(tokens=tokens, origin="test", skip_first=1, skip_last=1)


def first(reference, samples):
    return replace(reference, tokens=reference.tokens[:samples])


@pytest.mark.parametrize("side", ["value", "key"])
@pytest.mark.parametrize("transition", ["full", "first-order", "identity"])
@pytest.mark.parametrize("off", [NONE, frozenset({2, 5}), frozenset({0, 1, 2})])
def test_a_walk_is_the_direct_method(architecture, tiny, reference, side, transition, off):
    route, oracle = routes(tiny)[side]
    v = vector(tiny.d_model)
    walk = Walk(Recording(tiny, reference, batch=1), v, route, transition)
    got, n_tokens = walk.carried(off & frozenset(route.blocks))
    expected = oracle(tiny, reference, v, route.start, transition=transition, off=off)
    assert n_tokens == reference.n_tokens
    assert relative(got.vector, expected.vector) < tolerance(architecture)
    error = (got.steps - expected.steps).norm()
    assert error <= tolerance(architecture) * expected.vector.norm()
    assert relative(got.direct, expected.direct) < 1e-12
    assert got.relative_variance == pytest.approx(expected.relative_variance, abs=1e-5)


@pytest.mark.parametrize("positions", ["early", "late"])
@pytest.mark.parametrize("side", ["value", "key"])
def test_a_walk_heeds_where_the_feature_sits(toy, side, positions):
    tokens = torch.randint(0, 101, (3, 20), generator=torch.Generator().manual_seed(7))
    reference = ReferenceSample(tokens=tokens, origin="test", skip_first=1)
    route, oracle = routes(toy)[side]
    v = vector(toy.d_model)
    walk = Walk(Recording(toy, reference), v, replace(route, positions=positions))
    expected = oracle(toy, reference, v, route.start, positions=positions)
    assert relative(walk.carried()[0].vector, expected.vector) < 1e-10
    assert walk.carried()[0].relative_variance == pytest.approx(expected.relative_variance)
    back = pull_back if side == "value" else push_forward
    ends = (toy.n_blocks, 0) if side == "value" else (0, toy.n_blocks)
    read = Walk(Recording(toy, reference), v, Route(*ends, positions, to_feature=True))
    assert relative(read.at_sites()[0], back(toy, reference, v, positions=positions)) < 1e-10


def test_norms_at_either_end_are_the_direct_methods(toy, many):
    v = vector(toy.d_model)
    value = Route(2, toy.n_blocks, norm=toy.final_norm, after_mlp=True, final=toy.final_norm)
    got, _ = Walk(Recording(toy, many), v, value).carried(frozenset({3}))
    expected = value_transition(
        toy, many, v, 2, write_norm=toy.final_norm, linearize_final_norm=True, off=frozenset({3})
    )
    assert got.normed
    assert relative(got.vector, expected.vector) < 1e-10
    assert relative(got.steps, expected.steps) < 1e-10
    key, _ = Walk(Recording(toy, many), v, Route(3, 0, norm=toy.final_norm)).carried()
    expected = key_transition(toy, many, v, 3, read_norm=toy.final_norm)
    assert relative(key.vector, expected.vector) < 1e-10


@pytest.mark.parametrize("side", ["value", "key"])
def test_each_stage_is_the_direct_method_on_its_samples(toy, many, side):
    route, oracle = routes(toy)[side]
    v = vector(toy.d_model)
    walk = Walk(Recording(toy, many, batch=1), v, route)
    assert stages(many, 8) == (2 * 4, 6 * 4, 11 * 4)
    for tokens in stages(many, 8):
        got, n_tokens = walk.carried(tokens=tokens)
        assert n_tokens == tokens
        expected = oracle(toy, first(many, tokens // 4), v, route.start)
        assert relative(got.vector, expected.vector) < 1e-10
        assert got.relative_variance == pytest.approx(expected.relative_variance)
    at_once, _ = Walk(Recording(toy, many, batch=1), v, route).carried()
    assert torch.equal(got.vector, at_once.vector)
    assert torch.equal(got.steps, at_once.steps)
    assert got.relative_variance == at_once.relative_variance


@pytest.mark.parametrize(
    ("d_model", "expected"),
    [(1, (8, 24, 44)), (13, (12, 24, 44)), (42, (28, 44)), (576, (44,))],
)
def test_a_first_stage_has_as_many_tokens_as_the_model_is_wide(many, d_model, expected):
    assert stages(many, d_model) == expected


def test_no_stage_needs_more_than_256_tokens_to_be_the_first(many):
    long = replace(many, tokens=many.tokens.repeat(20, 1))
    assert stages(long, 4096)[0] // 4 == 43  # samples of 6 tokens, 4 of which count


@pytest.mark.parametrize("tokens", [1, 3, 4, 5, 43, 44, 10**9])
def test_a_stage_holds_at_least_the_tokens_asked_for(toy, many, tokens):
    walk = Walk(Recording(toy, many, batch=1), vector(toy.d_model), Route(1, toy.n_blocks))
    n_tokens = walk.carried(tokens=tokens)[1]
    assert n_tokens == min(44, 4 * -(-tokens // 4))


_SWITCHES = st.lists(
    st.tuples(st.sets(st.integers(0, 3)), st.sampled_from([None, 1, 9, 30]), st.booleans()),
    min_size=1,
    max_size=5,
)


@pytest.mark.parametrize("transition", ["full", "first-order"])
@pytest.mark.parametrize("side", ["value", "key"])
@settings(max_examples=20, deadline=None)
@given(switches=_SWITCHES)
def test_whatever_was_switched_before_a_walk_gives_the_same_bits(
    toy, many, side, transition, switches
):
    """In any order of switches, stages and memory given back, as if each were the first."""
    route, _ = routes(toy)[side]
    v = vector(toy.d_model)
    recording = Recording(toy, many, batch=2)
    walk = Walk(recording, v, route, transition)
    for off, tokens, forget in switches:
        if forget:
            walk.forget_tangents()
            recording.release()
        got, n_tokens = walk.carried(frozenset(off), tokens)
        fresh = Walk(Recording(toy, many, batch=2), v, route, transition)
        expected, expected_tokens = fresh.carried(frozenset(off), tokens)
        assert n_tokens == expected_tokens
        assert torch.equal(got.vector, expected.vector)
        assert torch.equal(got.steps, expected.steps)
        assert got.relative_variance == expected.relative_variance


class Counting:
    """A model that counts how often each block is run and each recording is walked."""

    def __init__(self, model):
        self._model, self.runs = model, []

    def __getattr__(self, name):
        return getattr(self._model, name)

    def block(self, k, h):
        self.runs.append(k)
        return self._model.block(k, h)


def test_one_recording_serves_both_sides_all_masks_and_the_way_back(toy, many):
    model = Counting(toy)
    recording = Recording(model, many, batch=2)
    v = vector(toy.d_model)
    for route in (Route(2, 4), Route(2, 0), Route(4, 2), Route(0, 2)):
        Walk(recording, v, route).carried()
    once = sorted(model.runs)
    # To reach its site, and to be recorded, in each of 6 micro-batches; and the plan's trial.
    assert all(once.count(k) <= 2 * 6 + 1 for k in range(4))
    for off in ({2}, {3}, set()):
        Walk(recording, v, Route(2, 4)).carried(frozenset(off))
    assert sorted(model.runs) == once


def test_a_switch_walks_only_what_comes_after_it(toy, many, monkeypatch):
    walk = Walk(Recording(toy, many, batch=11), vector(toy.d_model), Route(0, 4))
    walk.carried()
    walked = []
    monkeypatch.setattr(
        "lens_core.linearization.LinearMap.jvp",
        lambda _, tangent: walked.append(1) or torch.zeros_like(tangent),
    )
    for off, steps in (({2}, 1), ({2, 3}, 0), ({3}, 1), ({1, 3}, 1)):
        walked.clear()
        walk.carried(frozenset(off))
        assert len(walked) == steps, off


@pytest.fixture(scope="module")
def each(toy, many):
    """What one sample takes recorded for `vjp`, and what `jvp` adds, with what a process grows."""
    found = block_bytes(toy, many.tokens[:1])
    recorded = sum(each.recorded for each in found)
    return 1.3 * recorded, 1.3 * sum(each.walked for each in found)


def vectors_of(toy, many):
    """The running vectors that walks keep of two features and both sides."""
    return 2 * (toy.n_blocks + 2) * many.tokens.numel() * toy.d_model * toy.dtype.itemsize


@pytest.mark.parametrize("route", [Route(0, 4), Route(4, 0)])
def test_as_many_samples_stay_as_the_budget_holds_of_what_was_asked(toy, many, each, route):
    recorded, walked = each
    one = recorded + (walked if route.is_forward else 0)
    memory = int(5.5 * one) + vectors_of(toy, many)
    recording = Recording(toy, many, memory=memory, batch=1)
    walk = Walk(recording, vector(toy.d_model), route)
    whole, _ = walk.carried()
    assert sorted(recording._kept) == [0, 1, 2, 3, 4]
    assert recording.kept_bytes == pytest.approx(5 * one + vectors_of(toy, many), rel=1e-3)
    assert recording.kept_bytes <= memory
    running = [each for walked in walk._walked.values() for each in walked.running]
    assert 0 < sum(each.nbytes for each in running) <= vectors_of(toy, many) / 2
    recording.release()
    assert recording.kept_bytes == 0
    assert torch.equal(walk.carried()[0].vector, whole.vector)


def test_what_is_asked_later_may_need_more_of_each_and_lets_the_last_go(toy, many, each):
    recorded, walked = each
    memory = int(11.5 * recorded) + vectors_of(toy, many)
    recording = Recording(toy, many, memory=memory, batch=1)
    v = vector(toy.d_model)
    Walk(recording, v, Route(4, 0)).carried()
    assert len(recording._kept) == 11
    got, _ = Walk(recording, v, Route(0, 4)).carried()
    fits = int(11.5 * recorded / (recorded + walked))
    assert sorted(recording._kept) == list(range(fits)) != []
    assert recording.kept_bytes <= memory
    fresh, _ = Walk(Recording(toy, many, batch=1), v, Route(0, 4)).carried()
    assert torch.equal(got.vector, fresh.vector)


def test_a_budget_for_one_sample_at_a_time_keeps_nothing_and_a_smaller_one_is_named(
    toy, many, each
):
    recording = Recording(toy, many, memory=int(sum(each)) + 9)
    Walk(recording, vector(toy.d_model), Route(0, 4)).carried()
    assert recording.kept_bytes == len(recording._kept) == 0
    with pytest.raises(UsageError, match=r"\[compute\]\.memory"):
        Recording(toy, many, memory=int(sum(each)) - 99).size  # noqa: B018


def test_what_is_counted_is_what_a_whole_recording_saves(tiny, reference):
    """Of the blocks measured and of those that they stand for, in both modes."""
    tokens = reference.tokens[:1]
    counted = block_bytes(tiny, tokens)
    storages = {}

    def count(tensor):
        storage = tensor.untyped_storage()
        if not isinstance(tensor, torch.nn.Parameter):
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = MicroBatch(tiny, tokens)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        blocks = [batch.record(k) for k in range(tiny.n_blocks)]
        for block in blocks:
            block.prepare_jvp()
    weights = {each.untyped_storage().data_ptr() for each in tiny.bridge.parameters()}
    saved = sum(size for address, size in storages.items() if address not in weights)
    held = 4 * tiny.n_blocks * blocks[0].output.nbytes
    total = sum(each.recorded + each.walked for each in counted)
    assert batch.bytes(counted) == total
    assert total == pytest.approx(saved + held, rel=0.1)


def test_running_out_of_memory_keeps_less_then_takes_less_and_goes_on(toy, many):
    class Tight(Counting):
        most = 0

        def block(self, k, h):
            if len(h) > self.most and len(h) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().block(k, h)

    model = Tight(toy)
    model.most = 100
    recording = Recording(model, many, batch=4)
    v = vector(toy.d_model)
    walk = Walk(recording, v, Route(1, 4))
    before, _ = walk.carried()
    model.most = 1
    recording.release()
    got, n_tokens = walk.carried(frozenset({2}))
    assert recording.size == 1
    assert n_tokens == many.n_tokens
    expected = value_transition(toy, many, v, 1, off=frozenset({2}))
    assert relative(got.vector, expected.vector) < 1e-10
    assert relative(walk.carried()[0].vector, before.vector) < 1e-12


def test_out_of_memory_elsewhere_gives_the_recording_back(toy, many):
    from lens_core.memory import release

    recording = Recording(toy, many, batch=2)
    Walk(recording, vector(toy.d_model), Route(0, 4)).carried()
    assert recording._kept
    release(torch.device("cpu"))
    assert not recording._kept


def test_what_interrupts_a_walk_keeps_the_micro_batches_before(toy, many):
    class StopError(Exception):
        pass

    told = []

    def stop(done, total):
        told.append((done, total))
        if done >= total // 2:
            raise StopError

    model = Counting(toy)
    walk = Walk(Recording(model, many, batch=1), vector(toy.d_model), Route(0, 4))
    with pytest.raises(StopError):
        walk.carried(progress=stop)
    assert told == sorted(told)
    kept = dict(walk._walked)
    assert len(kept) == 5
    walk.carried()
    assert all(walk._walked[number] is found for number, found in kept.items())


def test_a_question_in_between_that_takes_less_at_once_changes_no_number(toy, many):
    """Memory runs out inside `progress`, where another request is served, and batches shrink."""
    recording = Recording(toy, many, batch=4)
    v, told = vector(toy.d_model), []

    def shrinks(done, total):
        told.append(done)
        if len(told) == 6:  # in the second of three micro-batches
            recording._budget = 0
            assert recording._shrink()

    got, n_tokens = Walk(recording, v, Route(0, 4)).carried(progress=shrinks)
    assert recording.size == 2
    assert n_tokens == many.n_tokens
    assert relative(got.vector, value_transition(toy, many, v, 0).vector) < 1e-10


def test_numbers_that_overflow_are_no_answer(toy, many):
    class Broken(Counting):
        def block(self, k, h):
            return super().block(k, h) * (float("inf") if k == 2 else 1)

    with pytest.raises(ModelError, match="not finite"):
        Walk(Recording(Broken(toy), many), vector(toy.d_model), Route(1, 4)).carried()
