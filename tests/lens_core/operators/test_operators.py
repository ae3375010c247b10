"""Operators against the direct method, and interrupted, sharded, damaged and merged builds."""

import dataclasses
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from lens_core.direct import key_transition, value_transition
from lens_core.errors import ModelError, OperatorError, QlensWarning, StoreError
from lens_core.linearization import Linearization
from lens_core.model import ResidualModel
from lens_core.operators.build import (
    Work,
    assemble,
    build_operators,
    import_units,
    seconds_left,
)
from lens_core.operators.contents import is_complete, missing_units
from lens_core.operators.files import Operators
from lens_core.operators.passes import FAMILIES, Positions
from lens_core.operators.plan import plan_build
from lens_core.reference import ReferenceSample
from lens_core.storage.tensors import open_tensors, verify_tensors
from tests.fixtures import tolerance
from tests.models import tiny_hf
from tests.oracles import first_readers_of_a_key, first_readers_of_a_value, relative, vector
from tests.toys import MixingToy


def build(model, reference, directory, *, batch=None, **options):
    plan = plan_build(model, "weights", reference, batch=batch)
    # Several units per family, so that order, resuming and sharding mean something.
    plan = dataclasses.replace(plan, rows_per_unit=max(2, plan.d_model // 3))
    build_operators(model, reference, plan, directory, **options)
    return plan


@pytest.fixture(scope="module")
def operators(tiny, reference, tmp_path_factory):
    directory = tmp_path_factory.mktemp("operators")
    build(tiny, reference, directory, batch=2)
    return assemble(directory)


@pytest.fixture(scope="module")
def toy_reference():
    tokens = torch.randint(0, 101, (5, 19), generator=torch.Generator().manual_seed(7))
    return ReferenceSample(tokens=tokens, origin="test")


def test_the_value_operator_is_the_direct_method_at_every_site(
    architecture, tiny, reference, operators
):
    for site in range(tiny.n_blocks + 1):
        v = vector(24, site)
        direct = value_transition(tiny, reference, v, site).vector
        assert relative(operators.value(site) @ v, direct) < tolerance(architecture)


def test_a_key_by_reverse_mode_is_the_transposed_forward_operator(
    architecture, tiny, reference, operators
):
    for site in range(tiny.n_blocks + 1):
        k = vector(24, site)
        direct = key_transition(tiny, reference, k, site).vector
        assert relative(k @ operators.key(site), direct) < tolerance(architecture)


@pytest.mark.parametrize("off", [frozenset(), frozenset({1, 4})])
def test_first_order_is_the_sum_of_block_responses(architecture, tiny, reference, operators, off):
    for site in (0, 3, tiny.n_blocks):
        v = vector(24, site)
        for side, walk in (("value", value_transition), ("key", key_transition)):
            direct = walk(tiny, reference, v, site, transition="first-order", off=off)
            matrix = operators.first_order(side, site, off)
            got = matrix @ v if side == "value" else v @ matrix
            assert relative(got, direct.vector) < tolerance(architecture)
            for k in set(range(site, tiny.n_blocks) if side == "value" else range(site)) - off:
                response = operators.response(k)
                step = response @ v if side == "value" else v @ response
                assert relative(step, direct.steps[k]) < tolerance(architecture)


def assert_first_readers(model, reference, operators, bound):
    """The operators' difference across a block, against the block alone reading or writing."""
    v = vector(model.d_model)
    values = first_readers_of_a_value(model, reference, v, 0)
    keys = first_readers_of_a_key(model, reference, v, model.n_blocks)
    for k in range(model.n_blocks):
        term = (operators.value(k) - operators.value(k + 1)) @ v
        assert float((term - values[k]).norm()) < bound * float((operators.value(k) @ v).norm())
        term = v @ (operators.key(k + 1) - operators.key(k))
        assert float((term - keys[k]).norm()) < bound * float((v @ operators.key(k + 1)).norm())


def test_a_blocks_first_reader_term_is_what_starts_or_ends_with_it(
    architecture, tiny, reference, operators
):
    assert_first_readers(tiny, reference, operators, tolerance(architecture))


def test_the_toys_first_reader_terms_start_or_end_with_their_block(toy, reference, tmp_path):
    build(toy, reference, tmp_path)
    assert_first_readers(toy, reference, assemble(tmp_path), tolerance("toy"))


def test_halves_are_the_operators_of_half_the_reference(tiny, reference, operators):
    v = vector(24)
    for tokens, (value, key) in zip(
        (reference.tokens[:2], reference.tokens[2:]),
        zip(operators.halves("value", 2), operators.halves("key", 4), strict=True),
        strict=True,
    ):
        half = dataclasses.replace(reference, tokens=tokens)
        assert relative(value @ v, value_transition(tiny, half, v, 2).vector) < 1e-5
        assert relative(v @ key, key_transition(tiny, half, v, 4).vector) < 1e-5


def test_buckets_are_the_gradient_at_the_features_own_positions(toy, toy_reference, tmp_path):
    build(toy, toy_reference, tmp_path)
    operators = assemble(tmp_path)
    v, tokens, site = vector(5), toy_reference.tokens, 1
    h = toy.run(toy.embed(tokens), 0, site)
    for bucket, positions in enumerate((slice(0, 16), slice(16, 19))):
        written = torch.zeros_like(h)
        written[:, positions] = v
        carried = torch.func.jvp(lambda x: toy.run(x, site), (h,), (written,))[1]
        n = len(tokens) * (positions.stop - positions.start)
        got = operators.buckets("value", site)[bucket]
        assert relative(got @ v, carried.sum((0, 1)) / n) < 1e-10
        # Key side: the feature reads at the bucket's positions, the input moves everywhere.
        start = toy.embed(tokens).requires_grad_()
        read = (toy.run(start, 0, site)[:, positions] @ v).sum()
        (gradient,) = torch.autograd.grad(read, start)
        got = operators.buckets("key", site)[bucket]
        assert relative(v @ got, gradient.sum((0, 1)) / n) < 1e-10


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_many_rows_in_one_pass_are_those_rows_one_by_one(tiny, reference, family):
    """How many cotangents are used to fill a GPU."""
    recording = Linearization(tiny, reference.tokens, forward_mode=family.forward_mode)
    positions = Positions.of(reference)
    rows = torch.eye(24, dtype=torch.float64)[3:7]
    together = family.run(recording, rows, positions)
    for at in range(4):
        alone = family.run(recording, rows[at : at + 1], positions)
        assert relative(together[at], alone[0]) < 1e-6


def test_each_buckets_identity_has_coefficient_one(toy, toy_reference, tmp_path):
    build(toy, toy_reference, tmp_path)
    operators = assemble(tmp_path)
    for matrix in (*operators.buckets("value", 4), *operators.buckets("key", 0)):
        assert torch.allclose(matrix, torch.eye(5, dtype=torch.float64))


def test_a_bucket_without_positions_is_none(toy, tmp_path):
    short = ReferenceSample(tokens=torch.arange(24).reshape(3, 8), origin="test")
    build(toy, short, tmp_path)
    operators = assemble(tmp_path)
    assert operators.buckets("value", 0)[1] is None
    assert operators.buckets("value", 0)[0] is not None


def test_a_single_sample_has_one_half(toy, tmp_path):
    one = ReferenceSample(tokens=torch.arange(8).reshape(1, 8), origin="test")
    build(toy, one, tmp_path)
    operators = assemble(tmp_path)
    assert len(operators.halves("value", 0)) == 1
    v = vector(5)
    assert relative(operators.value(0) @ v, value_transition(toy, one, v, 0).vector) < 1e-10


def everything(directory):
    return {
        (path.name, name): tensor
        for path in sorted(directory.glob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def assert_same_bits(one, other):
    assert everything(one).keys() == everything(other).keys()
    for name, tensor in everything(one).items():
        assert torch.equal(tensor, everything(other)[name]), name


def test_shards_on_two_machines_merge_to_one_run_to_the_last_bit(toy, toy_reference, tmp_path):
    whole, first, second = (tmp_path / name for name in ("whole", "first", "second"))
    build(toy, toy_reference, whole, batch=2)
    assemble(whole)
    build(toy, toy_reference, first, batch=2, shard=(1, 2))
    build(toy, toy_reference, second, batch=2, shard=(2, 2))
    with pytest.raises(OperatorError, match=r"units are missing .* other shards"):
        assemble(first)
    assert import_units(second, first) > 0
    assemble(first)
    assert_same_bits(whole, first)


def test_a_build_that_is_cut_resumes_to_the_same_bits(toy, toy_reference, tmp_path):
    class CutError(Exception):
        pass

    def cut_at(limit):
        def progress(done, total):
            if done >= limit:
                raise CutError

        return progress

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    build(toy, toy_reference, whole, batch=3)
    assemble(whole)
    # Two halves of three families of units of 2, 2 and 1 passes: the 3rd pass falls into the
    # 2nd unit, the 7th into the 4th, the 11th into the 7th.
    for limit, missing in ((3, 18 - 1), (7, 18 - 3), (11, 18 - 6)):
        with pytest.raises(CutError):
            build(toy, toy_reference, cut, batch=3, progress=cut_at(limit))
        assert len(missing_units(cut)) == missing
    assert not is_complete(cut)
    done = []
    build(toy, toy_reference, cut, batch=3, progress=lambda *at: done.append(at))
    assert done[-1] == (30, 30)
    assemble(cut)
    assert_same_bits(whole, cut)


def test_units_cut_otherwise_are_not_joined(toy, toy_reference, tmp_path):
    build(toy, toy_reference, tmp_path / "one", shard=(1, 2))
    plan = dataclasses.replace(plan_build(toy, "weights", toy_reference), rows_per_unit=1)
    build_operators(toy, toy_reference, plan, tmp_path / "other", shard=(2, 2))
    with pytest.raises(OperatorError, match="another model, reference or version"):
        import_units(tmp_path / "other", tmp_path / "one")


def test_a_resumed_build_keeps_the_micro_batch_it_began_with(toy, toy_reference, tmp_path):
    build(toy, toy_reference, tmp_path, batch=1, shard=(1, 2))
    build(toy, toy_reference, tmp_path, batch=5, shard=(2, 2))
    assert assemble(tmp_path).plan.micro_batch == 1


def test_another_micro_batch_gives_the_same_to_rounding(toy, toy_reference, tmp_path):
    build(toy, toy_reference, tmp_path / "one", batch=1)
    build(toy, toy_reference, tmp_path / "all", batch=5)
    one, other = assemble(tmp_path / "one"), assemble(tmp_path / "all")
    assert relative(one.value(1), other.value(1)) < 1e-12
    assert relative(one.key(3), other.key(3)) < 1e-12


def test_a_damaged_unit_is_computed_again(toy, toy_reference, tmp_path):
    whole, damaged = tmp_path / "whole", tmp_path / "damaged"
    build(toy, toy_reference, whole)
    build(toy, toy_reference, damaged)
    assemble(whole)
    units = sorted((damaged / "units").iterdir())
    raw = bytearray(units[0].read_bytes())
    raw[-1] ^= 1
    units[0].write_bytes(raw)
    units[1].write_bytes(units[1].read_bytes()[:100])
    assert len(missing_units(damaged)) == 2
    build(toy, toy_reference, damaged)
    assemble(damaged)
    assert_same_bits(whole, damaged)


def test_memory_running_out_shrinks_the_micro_batch_and_goes_on(toy, toy_reference, tmp_path):
    class Tight(MixingToy):
        def block(self, k, h):
            if len(h) > 1:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            return super().block(k, h)

    build(Tight(), toy_reference, tmp_path / "tight", batch=3)
    tight = assemble(tmp_path / "tight")
    assert tight.plan.micro_batch == 1
    build(toy, toy_reference, tmp_path / "roomy", batch=3)
    assert relative(tight.value(0), assemble(tmp_path / "roomy").value(0)) < 1e-12


def test_the_operators_of_another_reference_are_not_mixed_in(toy, toy_reference, tmp_path):
    build(toy, toy_reference, tmp_path, shard=(1, 2))
    other = dataclasses.replace(toy_reference, skip_first=1)
    with pytest.raises(OperatorError, match="another model, reference or version"):
        build(toy, other, tmp_path, shard=(2, 2))


def test_a_model_that_gives_nan_is_an_error_not_an_operator(toy_reference, tmp_path):
    class Broken(MixingToy):
        def block(self, k, h):
            return super().block(k, h) * float("nan")

    with pytest.raises(ModelError, match="not finite"):
        build(Broken(), toy_reference, tmp_path)


def test_a_missing_or_damaged_manifest_says_what_to_do(toy, toy_reference, tmp_path):
    with pytest.raises(OperatorError, match=r"run `qlens build` first"):
        Operators(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(OperatorError, match="damaged"):
        Operators(tmp_path)
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(OperatorError, match="damaged"):
        Operators(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": 0}')
    with pytest.raises(OperatorError, match="another version"):
        Operators(tmp_path)


def test_the_announced_size_is_the_size_on_disk(toy, toy_reference, tmp_path):
    plan = build(toy, toy_reference, tmp_path)
    assemble(tmp_path)
    stored = sum(tensor.nbytes for tensor in everything(tmp_path).values())
    assert stored == plan.bytes_on_disk


def test_a_damaged_mean_is_made_again_from_the_sums(toy, toy_reference, tmp_path):
    build(toy, toy_reference, tmp_path)
    expected = assemble(tmp_path).value(1).clone()  # the tensor is the mapped file
    mean = tmp_path / "mean-001.safetensors"
    mean.write_bytes(mean.read_bytes()[:-8] + bytes(8))
    assert torch.equal(Operators(tmp_path).value(1), expected)
    verify_tensors(mean)
    assert torch.equal(load_file(mean)["value"], expected)


def test_damaged_sums_are_never_shown_and_the_means_still_answer(toy, toy_reference, tmp_path):
    build(toy, toy_reference, tmp_path)
    operators = assemble(tmp_path)
    sums = tmp_path / "sums-001.safetensors"
    sums.write_bytes(sums.read_bytes()[:-8] + bytes(8))
    with pytest.warns(QlensWarning, match=r"stability is not known: .*damaged.*run `qlens build`"):
        assert operators.halves("value", 1) == []
    with pytest.raises(OperatorError, match="run `qlens build`"):
        operators.demand_sums(1)
    assert not is_complete(tmp_path)
    assert relative(Operators(tmp_path).value(1), operators.value(1)) == 0
    build(toy, toy_reference, tmp_path)
    assert relative(assemble(tmp_path).value(1), operators.value(1)) < 1e-12


@pytest.mark.gpu
def test_a_gpu_builds_the_same_operators(reference, tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    on_gpu = ResidualModel.from_hf(tiny_hf("gpt2").cuda(), None, "gpt2")
    on_cpu = ResidualModel.from_hf(tiny_hf("gpt2"), None, "gpt2")
    build(on_gpu, reference, tmp_path / "gpu")
    build(on_cpu, reference, tmp_path / "cpu")
    one, other = assemble(tmp_path / "gpu"), assemble(tmp_path / "cpu")
    for site in range(on_cpu.n_blocks + 1):
        assert relative(one.value(site), other.value(site)) < 1e-10
        assert relative(one.key(site), other.key(site)) < 1e-10


def test_every_file_says_what_it_is_of(toy, toy_reference, tmp_path):
    plan = build(toy, toy_reference, tmp_path)
    assemble(tmp_path)
    for path in tmp_path.glob("*.safetensors"):
        with open_tensors(path) as file:
            assert file.metadata["operators"] == plan.fingerprint
            assert file.metadata["model"] == "weights"
            assert file.metadata["reference"] == toy_reference.sha256
            assert "torch" in json.loads(file.metadata["versions"])
            assert json.loads(file.metadata["micro_batches"]) == [plan.micro_batch]


def test_operators_of_something_else_under_the_right_name_are_refused(toy, toy_reference, tmp_path):
    plan = build(toy, toy_reference, tmp_path)
    assemble(tmp_path)
    assert Operators(tmp_path, expected=plan.fingerprint).plan == plan
    with pytest.raises(OperatorError, match="another model, reference or version"):
        Operators(tmp_path, expected="f" * 64)


def test_a_file_of_other_operators_is_not_taken_for_ones_own(toy, toy_reference, tmp_path):
    build(toy, toy_reference, tmp_path / "one")
    assemble(tmp_path / "one")
    other = dataclasses.replace(toy_reference, skip_first=2)
    build(toy, other, tmp_path / "other")
    expected = assemble(tmp_path / "other").value(1).clone()
    shutil.copy(tmp_path / "one" / "mean-001.safetensors", tmp_path / "other")
    assert torch.equal(Operators(tmp_path / "other").value(1), expected)


def test_a_changed_number_in_the_manifest_is_found(toy, toy_reference, tmp_path):
    plan = build(toy, toy_reference, tmp_path)
    assemble(tmp_path)
    manifest = tmp_path / "manifest.json"
    written = manifest.read_text()
    manifest.write_text(written.replace('"samples": 5', '"samples": 6'))
    assert Operators(tmp_path, writable=False).plan == plan
    assert manifest.read_text() != written
    assert Operators(tmp_path).plan == plan
    assert manifest.read_text() == written
    for path in tmp_path.glob("*.safetensors"):
        path.unlink()
    manifest.write_text(written.replace('"samples": 5', '"samples": 6'))
    with pytest.raises(OperatorError, match="damaged"):
        Operators(tmp_path)


def test_a_finished_build_is_not_computed_again(toy, toy_reference, tmp_path):
    plan = build(toy, toy_reference, tmp_path)
    assemble(tmp_path)
    done = []
    build_operators(toy, toy_reference, plan, tmp_path, progress=lambda *at: done.append(at))
    assert done == []
    assert list((tmp_path / "units").iterdir()) == []


def test_operators_with_a_file_missing_are_not_complete(toy, toy_reference, tmp_path):
    build(toy, toy_reference, tmp_path)
    assemble(tmp_path)
    (tmp_path / "sums-003.safetensors").unlink()
    assert not is_complete(tmp_path)


def test_a_file_that_cannot_be_read_now_does_not_lose_the_build(
    toy, toy_reference, tmp_path, monkeypatch
):
    build(toy, toy_reference, tmp_path)
    operators = assemble(tmp_path)

    def too_many_open_files(path):
        raise StoreError(f"cannot read {path}: Too many open files")

    monkeypatch.setattr("lens_core.operators.files.open_tensors", too_many_open_files)
    with pytest.raises(StoreError, match="Too many"):
        operators.halves("value", 1)
    assert is_complete(tmp_path)


def test_nothing_is_repaired_in_a_cache_that_is_not_ones_own(toy, toy_reference, tmp_path):
    build(toy, toy_reference, tmp_path)
    expected = assemble(tmp_path).value(1).clone()
    mean = tmp_path / "mean-001.safetensors"
    damaged = mean.read_bytes()[:-8] + bytes(8)
    mean.write_bytes(damaged)
    colleague = Operators(tmp_path, writable=False)
    assert torch.equal(colleague.value(1), expected)
    assert mean.read_bytes() == damaged
    sums = tmp_path / "sums-001.safetensors"
    sums.write_bytes(sums.read_bytes()[:-8] + bytes(8))
    with pytest.warns(QlensWarning, match="ask its owner to run `qlens build`"):
        assert colleague.halves("value", 1) == []
    assert is_complete(tmp_path)


def test_the_time_of_a_build_is_of_what_is_left(toy, toy_reference, tmp_path):
    plan = plan_build(toy, "weights", toy_reference, batch=1)
    units = plan.units()
    assert seconds_left(toy, toy_reference, Work(plan, units, ())) > 0
    assert seconds_left(toy, toy_reference, Work(plan, units, units)) == 0


def test_the_time_of_a_build_is_not_known_where_memory_is_short(toy, toy_reference, monkeypatch):
    def short(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("lens_core.operators.build.Linearization", short)
    plan = plan_build(toy, "weights", toy_reference, batch=1)
    assert seconds_left(toy, toy_reference, Work(plan, plan.units(), ())) is None
