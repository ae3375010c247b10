"""The ablation split against switching every block off by itself."""

from dataclasses import replace

import pytest
import torch

from lens_core.batch_walk import Route
from lens_core.direct import key_transition, value_transition
from lens_core.errors import UsageError
from lens_core.linearization import block_bytes
from lens_core.recording import Recording, stages
from lens_core.reference import ReferenceSample
from lens_core.terms import Settings, block_name
from lens_core.walk import Walk
from tests.fixtures import tolerance
from tests.lens_core.test_lens import FEATURE, LAYER, make_lens
from tests.oracles import relative, vector

SITE, NONE = 2, frozenset()
ORACLES = {"value": value_transition, "key": key_transition}


@pytest.fixture(scope="module")
def bare_lens(tiny, reference, word_tokenizer):
    return make_lens(tiny, reference, word_tokenizer)


@pytest.fixture(scope="module")
def many():
    """Samples enough for three stages, an odd number of them."""
    tokens = torch.randint(0, 101, (11, 6), generator=torch.Generator().manual_seed(6))
    return ReferenceSample(tokens=tokens, origin="test", skip_first=1, skip_last=1)


def route_of(side, model):
    return Route(SITE, model.n_blocks) if side == "value" else Route(SITE + 1, 0)


@pytest.mark.parametrize("transition", ["full", "first-order"])
@pytest.mark.parametrize("off", [NONE, frozenset({1, 4})])
@pytest.mark.parametrize("side", ORACLES)
def test_a_vector_without_a_block_is_that_of_the_direct_method(
    architecture, tiny, reference, side, off, transition
):
    route, v = route_of(side, tiny), vector(tiny.d_model)
    off &= frozenset(route.blocks)
    walk = Walk(Recording(tiny, reference, batch=2), v, route, transition)
    before, _ = walk.carried(off)
    on = [k for k in route.blocks if k not in off]
    found, n_tokens = walk.ablated(on, off)
    assert n_tokens == reference.n_tokens
    for at, k in enumerate(on):
        expected = ORACLES[side](
            tiny, reference, v, route.start, transition=transition, off=off | {k}
        )
        assert relative(found[at], expected.vector) < tolerance(architecture)
    assert torch.equal(walk.carried(off)[0].vector, before.vector)


@pytest.mark.parametrize("side", ORACLES)
@pytest.mark.parametrize("kept", [0, 2, 4])
def test_stages_and_what_stays_recorded_change_no_bit(toy, many, side, kept):
    route, v = route_of(side, toy), vector(toy.d_model)
    whole, _ = Walk(Recording(toy, many, batch=2), v, route).ablated(route.blocks)
    each = [one.recorded + one.walked for one in block_bytes(toy, many.tokens[:1])]
    vectors = 2 * (toy.n_blocks + 2) * many.tokens.numel() * toy.d_model * toy.dtype.itemsize
    memory = int(1.3 * sum(each) * (2 * kept + 1)) + vectors + 9
    recording = Recording(toy, many, memory=memory, batch=2)
    walk, counted = Walk(recording, v, route), []
    for tokens in stages(many, 8):
        found, n_tokens = walk.ablated(route.blocks, tokens=tokens)
        counted.append(n_tokens)
        expected = Walk(Recording(toy, many, batch=2), v, route).ablated(
            route.blocks, tokens=tokens
        )[0]
        assert torch.equal(found, expected)
        assert recording.kept_bytes <= memory
    assert (len(recording._kept) == 0) == (kept == 0)
    assert (len(recording._kept) == 6) == (kept == 4)
    assert torch.equal(found, whole)
    assert counted == sorted(set(counted))
    assert counted[-1] == many.n_tokens


def test_running_out_of_memory_takes_less_at_once_and_changes_no_number(toy, many):
    """What was summed over larger micro-batches is not taken for that of smaller ones."""
    recording = Recording(toy, many, memory=1 << 40, batch=4)
    route = route_of("value", toy)
    walk = Walk(recording, vector(toy.d_model), route)
    before, _ = walk.ablated(route.blocks)
    while recording.size == 4:
        assert recording._shrink()
    after, n_tokens = walk.ablated(route.blocks)
    assert recording.size == 2
    assert n_tokens == many.n_tokens
    assert relative(after, before) < 1e-12


def test_it_can_be_cancelled_and_goes_on_with_the_micro_batches_that_were_done(toy, many):
    route = route_of("value", toy)

    def walk():
        return Walk(Recording(toy, many, batch=2), vector(toy.d_model), route)

    whole_run = []
    whole, _ = walk().ablated(route.blocks, progress=lambda *of: whole_run.append(of))

    class StopError(Exception):
        pass

    stopped, seen = walk(), []

    def stop(*of):
        seen.append(of)
        if len(seen) > 0.7 * len(whole_run):
            raise StopError

    with pytest.raises(StopError):
        stopped.ablated(route.blocks, progress=stop)
    rest = []
    found, _ = stopped.ablated(route.blocks, progress=lambda *of: rest.append(of))
    assert torch.equal(found, whole)
    assert rest[-1] == whole_run[-1]
    assert len(rest) < len(whole_run) / 2


@pytest.mark.parametrize("transition", ["full", "first-order"])
@pytest.mark.parametrize("off", [NONE, frozenset({0, 5})])
@pytest.mark.parametrize("side", ORACLES)
def test_what_a_block_costs_is_what_switching_it_off_shows(
    architecture, bare_lens, side, off, transition
):
    settings = Settings(transition, off=off)
    chosen, rows = bare_lens.paths(side, LAYER, FEATURE, settings, "ablation")
    assert chosen == "ablation"
    path = bare_lens.carrier.path(side, bare_lens.dictionary(LAYER))
    assert [row.block for row in rows] == [block_name(k) for k in path]

    shown = bare_lens.signature(LAYER, FEATURE, settings).side(side).query_lens
    readout = bare_lens.readouts[shown.readout]
    constant = readout.constant(torch.tensor(shown.ids))
    total = sum(shown.scores) - (0 if constant is None else float(constant))
    for k, row in zip(path, rows, strict=True):
        if k in off:
            assert (row.share, row.on, row.overlap, row.tokens) == (0, False, None, ())
            continue
        without = replace(settings, off=off | {k})
        then = bare_lens.signature(LAYER, FEATURE, without).side(side).query_lens
        carried = bare_lens.carrier.carry(side, bare_lens.dictionary(LAYER), FEATURE, without)
        scores = readout.scores(carried.vector)[list(shown.ids)]
        lost = (sum(shown.scores) - float(scores.sum())) / total
        assert row.share == pytest.approx(lost, abs=100 * tolerance(architecture))
        shared = len(set(then.ids) & set(shown.ids))
        assert row.overlap == pytest.approx(shared / (2 * len(shown.ids) - shared))


def test_the_identity_has_no_block_to_switch_off(bare_lens):
    with pytest.raises(UsageError, match="no ablation split"):
        bare_lens.paths("value", LAYER, FEATURE, Settings("identity"), "ablation")


@pytest.mark.parametrize("side", ORACLES)
def test_it_comes_from_the_cache_without_a_walk(
    tiny, reference, word_tokenizer, side, tmp_path, monkeypatch
):
    from lens_core.storage.results import ResultCache

    results = ResultCache(tmp_path / "results")
    lens = make_lens(tiny, reference, word_tokenizer, results=results)
    found = lens.paths(side, LAYER, FEATURE, Settings(), "ablation")
    monkeypatch.setattr(Walk, "ablated", None)
    monkeypatch.setattr(Walk, "carried", None)
    again = make_lens(tiny, reference, word_tokenizer, results=results)
    assert again.paths(side, LAYER, FEATURE, Settings(), "ablation") == found
