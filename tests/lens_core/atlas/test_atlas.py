"""The atlas: rows against the lens and the definitions, and damaged files."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from lens_core import feature_scores
from lens_core import lenses as lens_module
from lens_core.atlas import atlas as atlas_module
from lens_core.atlas import list_scores
from lens_core.atlas.atlas import CONTEXTS, atlas, atlas_fingerprint, atlas_layer
from lens_core.atlas.files import (
    SCHEMA,
    TOKENS,
    export_atlas,
    find_layer,
    read_atlas,
)
from lens_core.atlas.list_scores import AtlasLists
from lens_core.carry import Carrier
from lens_core.coherence import coherence, overlap
from lens_core.config import DictionaryConfig
from lens_core.dictionaries.load import load_dictionary
from lens_core.errors import DamagedError, OperatorError, StoreError, UsageError
from lens_core.instruments import DictionaryShelf
from lens_core.lens import QueryLens
from lens_core.model import ResidualModel
from lens_core.operators.build import assemble, build_operators
from lens_core.operators.files import Operators
from lens_core.operators.plan import plan_build
from lens_core.reference import ReferenceSample
from lens_core.storage.files import build_lock
from lens_core.storage.results import ResultCache
from lens_core.storage.sealed_parquet import write_sealed
from lens_core.terms import SIDES
from lens_core.vocabulary import Vocabulary
from tests.models import D_VOCAB, tiny_hf

LAYER, K = 1, 10
N, ROWS = 96, 36  # neurons of a layer of the tiny GPT-2, and how many a piece takes
LENSES = {"logit": "logit_lens", "query": "query_lens", "first_order": "first_order"}


def make_lens(model, reference, tokenizer, operators, shelf=None):
    config = DictionaryConfig(kind="neurons")
    shelf = shelf or DictionaryShelf(
        range(model.n_layers),
        lambda layer: load_dictionary(config, layer, model, dtype=model.dtype),
    )
    carrier = Carrier(model, reference, operators, None)
    return QueryLens(carrier, shelf, Vocabulary(tokenizer, model.d_vocab), k=K)


def built(model, reference, directory):
    build_operators(model, reference, plan_build(model, "weights", reference), directory)
    return assemble(directory)


@pytest.fixture(autouse=True, scope="module")
def _small_pieces():
    """Several pieces of a layer, the last one shorter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atlas_module, "ROWS_PER_PIECE", ROWS)
        yield


@pytest.fixture(scope="module")
def lens(tiny, reference, word_tokenizer, operators):
    return make_lens(tiny, reference, word_tokenizer, operators)


@pytest.fixture(scope="module")
def gpt2(reference, word_tokenizer, tmp_path_factory):
    """One architecture, for what does not depend on it."""
    model = ResidualModel.from_hf(tiny_hf("gpt2"), None, "gpt2")
    operators = built(model, reference, tmp_path_factory.mktemp("operators"))
    return make_lens(model, reference, word_tokenizer, operators)


@pytest.fixture(scope="module")
def frame(gpt2):
    return atlas(gpt2, LAYER)


@pytest.fixture(scope="module")
def kept(gpt2, tmp_path_factory):
    """A finished layer and its cache; not to be changed."""
    cache = tmp_path_factory.mktemp("cache")
    return cache, atlas_layer(gpt2, LAYER, cache)


@pytest.fixture
def cache(kept, tmp_path):
    """A copy of the finished cache, to be harmed."""
    shutil.copytree(kept[0], tmp_path / "cache")
    return tmp_path / "cache"


def variant(lens, **changes):
    """A lens on one dictionary that differs from the model's neurons."""
    changed = dataclasses.replace(lens.dictionary(LAYER), sha256="variant", **changes)
    shelf = DictionaryShelf([LAYER], lambda _layer: changed)
    return make_lens(
        lens.model, lens.carrier.reference, lens.vocabulary._tokenizer, lens.carrier.operators,
        shelf,
    )  # fmt: skip


def pieces(cache: Path) -> list[Path]:
    return sorted(cache.glob("atlas/*/*.parquet"))


def test_a_row_is_what_the_lens_says_of_the_feature(lens):
    frame = atlas(lens, LAYER)
    assert frame["feature"].to_list() == list(range(lens.dictionary(LAYER).n_features))
    activity = lens.activity(LAYER)
    close = pytest.approx
    for feature in random.Random(0).sample(range(len(frame)), 6):
        row = frame.row(feature, named=True)
        signature = lens.signature(LAYER, feature)
        assert (row["layer"], row["feature"], signature.method) == (LAYER, feature, "operator")
        for side in ("value", "key"):
            shown = getattr(signature, side)
            for name, attribute in LENSES.items():
                tokens = getattr(shown, attribute)
                assert tuple(row[f"{side}_{name}_ids"]) == tokens.ids
                scores = row[f"{side}_{name}_scores"]
                assert scores == close(tokens.scores, rel=1e-5, abs=1e-6)
                if side == "key":
                    length = row["key_norm" if name == "logit" else f"key_{name}_norm"]
                    units = [score / length for score in scores]
                    assert units == close(tokens.unit_scores, rel=1e-5, abs=1e-6)
            assert tuple(row[f"{side}_query_moved"]) == shown.query_lens.moved
            assert row[f"{side}_norm"] == close(shown.norm, rel=1e-6)
            assert row[f"{side}_query_norm"] == close(shown.transported_norm, rel=1e-6)
            assert row[f"{side}_stability"] == close(shown.stability, rel=1e-6)
        assert row["density"] == float(activity.density[feature])
        assert row["max_activation"] == float(activity.max_activation[feature])


def cosine_by_hand(model, side, ids):
    """Mean over all pairs, one pair at a time."""
    table = model.W_U.T if side == "value" else model.embedding
    centred = [(table[i] - table.mean(0)).double() for i in ids]
    pairs = [
        float(centred[i] @ centred[j] / (centred[i].norm() * centred[j].norm()))
        for i in range(len(ids))
        for j in range(i)
    ]
    return statistics.fmean(pairs)


@pytest.mark.parametrize("side", ["value", "key"])
def test_coherence_overlap_and_movement_are_their_definitions(lens, side):
    model, dictionary = lens.model, lens.dictionary(LAYER)
    frame = atlas(lens, LAYER)
    for feature in (0, 35, 36, 39):
        row = frame.row(feature, named=True)
        if side == "value":
            plain = model.final_norm(dictionary.values[feature]) @ model.W_U
            plain = plain if model.b_U is None else plain + model.b_U
        else:
            plain = model.embedding @ dictionary.keys[feature]
        order = plain.argsort(descending=True).tolist()
        query, logit = row[f"{side}_query_ids"], row[f"{side}_logit_ids"]
        moved = [order.index(token) - rank for rank, token in enumerate(query)]
        assert logit == order[:K]
        assert row[f"{side}_query_moved"] == moved
        assert row[f"{side}_median_moved"] == statistics.median(moved)
        assert row[f"{side}_overlap"] == pytest.approx(len({*query} & {*logit}) / K)
        by_hand = {name: cosine_by_hand(model, side, row[f"{side}_{name}_ids"]) for name in LENSES}
        for name, expected in by_hand.items():
            assert row[f"{side}_{name}_coherence"] == pytest.approx(expected, abs=1e-6)
        gain = by_hand["query"] - by_hand["logit"]
        assert row[f"{side}_gain"] == pytest.approx(gain, abs=1e-6)


def test_contexts_are_the_strongest_places_in_the_reference(gpt2, frame):
    activity = gpt2.activity(LAYER)
    tokens = gpt2.carrier.reference.tokens
    lengths = set()
    for row in frame.iter_rows(named=True):
        fired = int((activity.top_samples[row["feature"]] >= 0).sum())
        lengths.add(len(row["context_ids"]))
        assert len(row["context_ids"]) == min(fired, CONTEXTS)
        for at, (sample, position) in enumerate(
            zip(row["context_samples"], row["context_positions"], strict=True)
        ):
            assert sample == int(activity.top_samples[row["feature"], at])
            assert position == int(activity.top_positions[row["feature"], at])
            assert row["context_ids"][at] == int(tokens[sample, position])
            found = float(activity.top_activations[row["feature"], at])
            assert row["context_activations"][at] == pytest.approx(found)
    assert CONTEXTS in lengths


def test_a_feature_that_never_fires_is_silent_and_keeps_its_lists(gpt2, frame):
    dictionary = gpt2.dictionary(LAYER)
    rare = torch.arange(dictionary.n_features) % 3 == 0

    def encode(x):
        return dictionary.encode(x) * ~rare

    found = atlas(variant(gpt2, encode=encode), LAYER)
    silent = found.filter("silent")
    never = frame.select("silent").to_series() | pl.Series(rare.tolist())
    assert never.sum() < N
    assert found["silent"].to_list() == never.to_list()
    assert set(silent["density"]) == set(silent["max_activation"]) == {0.0}
    assert set(silent.select(pl.col("^context_.*$").list.len()).row(0)) == {0}
    assert (found.filter(~pl.col("silent"))["density"] > 0).all()
    lists = pl.col("^(value|key)_.*$")
    assert_frame_equal(found.select(lists), frame.select(lists), check_exact=True)


def test_a_key_of_length_zero_has_a_length_and_nothing_else(gpt2):
    keys = gpt2.dictionary(LAYER).keys.clone()
    keys[::2] = 0
    found = atlas(variant(gpt2, keys=keys), LAYER)
    tied = found.filter(pl.col("key_norm") == 0)
    assert len(tied) == len(found) // 2
    for name in found.columns:
        is_missing = name.startswith("key_") and not name.endswith("_norm")
        assert tied[name].null_count() == (len(tied) if is_missing else 0), name
    assert sum(found.filter(pl.col("key_norm") > 0).null_count().row(0)) == 0
    assert not any(found.select(pl.selectors.float().is_nan().any()).row(0))


def test_lists_longer_than_the_vocabulary_hold_every_token_once(gpt2):
    found = atlas(gpt2, LAYER, k=10 * D_VOCAB)
    ids = found["value_query_ids"].list.sort()
    assert ids.to_list() == [list(range(D_VOCAB))] * len(found)
    assert set(found["value_overlap"]) == set(found["key_stability"]) == {1.0}


def test_a_list_of_one_token_has_no_coherence(gpt2):
    found = atlas(gpt2, LAYER, k=1)
    assert found["value_query_coherence"].null_count() == found["key_gain"].null_count() == N
    assert found["value_overlap"].null_count() == 0


def test_the_half_of_a_single_sample_says_nothing_of_stability(
    gpt2, reference, word_tokenizer, tmp_path
):
    single = ReferenceSample(tokens=reference.tokens[:1], origin="one")
    lens = make_lens(gpt2.model, single, word_tokenizer, built(gpt2.model, single, tmp_path))
    found = atlas(lens, LAYER)
    assert found["value_stability"].null_count() == found["key_stability"].null_count() == N


def test_stability_that_is_stored_as_numbers_is_taken_from_there(gpt2, frame, monkeypatch):
    numbers = torch.linspace(0, 1, N, dtype=torch.float64)
    monkeypatch.setattr(Operators, "halves", lambda *_: [])
    monkeypatch.setattr(
        Operators,
        "stability",
        lambda _self, side, _dictionary, _k: numbers if side == "key" else None,
    )
    found = atlas(gpt2, LAYER)
    assert found["key_stability"].to_list() == numbers.float().tolist()
    assert found["value_stability"].null_count() == N
    rest = pl.exclude("^.*_stability$")
    assert_frame_equal(found.select(rest), frame.select(rest), check_exact=True)


def test_a_row_at_the_centre_has_no_direction():
    rows = torch.tensor([[1.0, 0], [-1, 0], [0, 0], [3, 0], [0, 3]])
    ids = torch.tensor([[0, 2], [0, 1], [3, 4], [0, 3]])
    assert coherence(ids, rows, torch.zeros(2)).tolist() == [0, -1, 0, 1]


def test_tokens_drawn_at_random_have_no_coherence_whatever_they_share():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(4000, 64, generator=generator) + 5
    ids = torch.stack([torch.randperm(4000, generator=generator)[:25] for _ in range(200)])
    assert abs(float(coherence(ids, rows, rows.mean(0)).mean())) < 0.002
    assert float(coherence(ids, rows, torch.zeros(64)).mean()) > 0.9


def test_overlap_is_of_sets():
    one, other = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[4, 3, 9, 8]])
    assert overlap(one, other).tolist() == [0.5]


def test_without_operators_the_build_is_named(gpt2, word_tokenizer, tmp_path):
    bare = make_lens(gpt2.model, gpt2.carrier.reference, word_tokenizer, None)
    for ask in (atlas, atlas_fingerprint, lambda *asked: atlas_layer(*asked, tmp_path)):
        with pytest.raises(OperatorError, match="run `qlens build` first"):
            ask(bare, LAYER)
    assert list(tmp_path.iterdir()) == []


def test_a_first_search_divides_by_what_came_with_the_atlas(gpt2, tmp_path, monkeypatch):
    def lens(results):
        carrier = Carrier(gpt2.model, gpt2.carrier.reference, gpt2.carrier.operators, results)
        return QueryLens(carrier, gpt2.dictionaries, gpt2.vocabulary, k=K)

    with ResultCache(tmp_path / "results") as results:
        atlas_layer(lens(results), LAYER, tmp_path)
        before = {side: gpt2.search(7, side=side, layers=[LAYER], n=N) for side in SIDES}
        monkeypatch.setattr(feature_scores, "compute_scales", None)
        for side in SIDES:
            found = lens(results).search(7, side=side, layers=[LAYER], n=N)
            assert_frame_equal(found, before[side], check_exact=True)


def test_the_lists_of_an_atlas_are_read_once_and_save_a_search_the_product(
    gpt2, kept, tmp_path, monkeypatch
):
    cache, _ = kept
    lists = AtlasLists(cache, gpt2)
    for side in SIDES:
        for lens in lens_module.LENSES:
            scores = lists(LAYER, side, lens)
            column = f"{side}_{lens.column}_scores"
            rows = kept[1].scan().select(column).collect()[column].to_list()
            assert [row.tolist() for row in scores] == [
                pytest.approx(row or [float("nan")] * K, nan_ok=True) for row in rows
            ]
            plain = gpt2.search(7, side=side, lens=lens.name, layers=[LAYER], n=3)
            found = gpt2.search(7, side=side, lens=lens.name, layers=[LAYER], n=3, lists=lists)
            assert_frame_equal(found, plain, check_exact=True)
    monkeypatch.setattr(list_scores, "find_layer", None)
    assert lists(LAYER, SIDES[-1], lens_module.LENSES[-1]) is scores
    monkeypatch.undo()
    assert AtlasLists(tmp_path, gpt2)(LAYER, "value", lens_module.LENSES[0]) is None


def test_the_columns_are_the_schema_in_memory_and_on_disk(frame, kept):
    assert dict(frame.schema) == dict(SCHEMA)
    assert_frame_equal(kept[1].scan().collect(), frame, check_exact=True)
    assert len(kept[1].pieces) == 3


def test_a_stopped_atlas_goes_on_and_is_the_same_to_the_last_bit(gpt2, frame, tmp_path):
    def stop(done, total):
        assert total == N
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        atlas_layer(gpt2, LAYER, tmp_path, progress=stop)
    (first,) = pieces(tmp_path)
    before = first.stat().st_mtime_ns
    told = []
    resumed = atlas(gpt2, LAYER, cache=tmp_path, progress=lambda *now: told.append(now))
    assert list(dict.fromkeys(told)) == [(0, 60), (36, 60), (60, 60)]
    assert first.stat().st_mtime_ns == before
    assert_frame_equal(resumed, frame, check_exact=True)


def test_an_atlas_can_be_stopped_between_two_products_of_a_piece(gpt2, tmp_path):
    told = []

    def stop(*now):
        told.append(now)
        if len(told) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        atlas_layer(gpt2, LAYER, tmp_path, progress=stop)
    assert told == [(0, N)] * 3
    assert not pieces(tmp_path)


def test_what_is_there_is_not_computed_again(gpt2, frame, kept):
    told = []
    again = atlas(gpt2, LAYER, cache=kept[0], progress=lambda *now: told.append(now))
    assert told == []
    assert_frame_equal(again, frame, check_exact=True)


@pytest.mark.parametrize(
    "harm", ["flipped", "cut", "emptied", "gone", "another layer's", "another piece's"]
)
def test_a_harmed_piece_is_never_shown_and_is_made_again(gpt2, frame, cache, harm):
    name = atlas_fingerprint(gpt2, LAYER)
    piece = pieces(cache)[1]
    content = piece.read_bytes()
    if harm == "flipped":
        piece.write_bytes(content[:500] + bytes([content[500] ^ 4]) + content[501:])
    elif harm == "cut":
        piece.write_bytes(content[:-20])
    elif harm == "emptied":
        piece.write_bytes(b"")
    elif harm == "gone":
        piece.unlink()
    elif harm == "another piece's":
        shutil.copy(pieces(cache)[0], piece)
    else:
        other = atlas_layer(gpt2, 0, cache)
        shutil.copy(other.pieces[1], piece)
    assert find_layer(cache, name) is None
    told = []
    repaired = atlas(gpt2, LAYER, cache=cache, progress=lambda *now: told.append(now))
    assert list(dict.fromkeys(told)) == [(0, 36), (36, 36)]
    assert_frame_equal(repaired, frame, check_exact=True)


def test_other_lists_dictionaries_operators_and_versions_do_not_share_a_directory(
    gpt2, reference, word_tokenizer, tmp_path, monkeypatch
):
    names = {
        atlas_fingerprint(gpt2, LAYER),
        atlas_fingerprint(gpt2, LAYER, 5),
        atlas_fingerprint(gpt2, 0),
        atlas_fingerprint(variant(gpt2), LAYER),
    }
    shorter = ReferenceSample(tokens=reference.tokens[:2], origin="short")
    operators = built(gpt2.model, shorter, tmp_path)
    names.add(atlas_fingerprint(make_lens(gpt2.model, shorter, word_tokenizer, operators), LAYER))
    monkeypatch.setattr("lens_core.atlas.atlas.versions", lambda: {"torch": "another"})
    names.add(atlas_fingerprint(gpt2, LAYER))
    assert len(names) == 6


def test_a_second_process_is_told_who_is_first(gpt2, cache):
    pieces(cache)[0].unlink()
    directory = cache / "atlas" / atlas_fingerprint(gpt2, LAYER)
    with build_lock(directory), pytest.raises(StoreError, match="is building"):
        atlas_layer(gpt2, LAYER, cache)


def test_a_colleagues_atlas_is_read_and_not_made_again(gpt2, kept, tmp_path, monkeypatch):
    monkeypatch.setenv("QLENS_SHARED_CACHE", str(kept[0]))
    assert atlas_layer(gpt2, LAYER, tmp_path).directory == kept[1].directory
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("teller", ["fsync", "polars"])
def test_a_full_disk_is_one_line_and_keeps_what_was_made(
    gpt2, frame, tmp_path, monkeypatch, teller
):
    made = 0

    def full(*_args, **_more):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def full_in_rust(*_args, **_more):
        # What polars raises on a full disk.
        raise pl.exceptions.ComputeError(
            "parquet: underlying IO error: No space left on device (os error 28)"
        )

    def fill_the_disk(done, _total):
        nonlocal made
        made = done
        if not done:
            return
        if teller == "fsync":
            patch.setattr(os, "fsync", full)
        else:
            patch.setattr(pl.LazyFrame, "sink_parquet", full_in_rust)

    with monkeypatch.context() as patch, pytest.raises(StoreError) as refused:
        atlas_layer(gpt2, LAYER, tmp_path, progress=fill_the_disk)
    assert str(refused.value).startswith(f"no space left in {tmp_path}")
    assert "\n" not in str(refused.value)
    assert made == ROWS
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"0000000-0000036-of-0000096.parquet", "build.lock"}
    assert_frame_equal(atlas(gpt2, LAYER, cache=tmp_path), frame, check_exact=True)


def test_cached_layers_are_read_without_torch(gpt2, kept):
    cache, layer = kept
    program = (
        "import sys; from pathlib import Path; from lens_core.atlas.files import find_layer\n"
        "layers = [find_layer(Path(sys.argv[1]), name) for name in sys.argv[2:]]\n"
        "rows = layers[0].scan().collect()\n"
        "print(len(rows), layers[1], 'torch' in sys.modules)"
    )
    asked = [str(cache), layer.directory.name, "0" * 64]
    printed = subprocess.run(
        [sys.executable, "-c", program, *asked], capture_output=True, text=True, check=True
    ).stdout
    assert printed == f"{N} None False\n"


def test_a_table_is_taken_away_with_its_provenance(gpt2, frame, kept, tmp_path):
    texts = gpt2.vocabulary.texts(list(range(D_VOCAB)))
    layers = [atlas_layer(gpt2, 0, tmp_path), kept[1]]
    export_atlas(layers, tmp_path / "table.parquet", texts)
    found = read_atlas(tmp_path / "table.parquet")
    assert found.frame["layer"].to_list() == [0] * N + [LAYER] * N
    assert set(found.frame.columns) == {*SCHEMA, *TOKENS.values()}
    assert_frame_equal(
        found.frame.filter(pl.col("layer") == LAYER).select(SCHEMA.keys()), frame, check_exact=True
    )
    for ids, tokens in TOKENS.items():
        for row in found.frame.select(ids, tokens).iter_rows():
            assert [texts[i] for i in row[0]] == row[1]
    about = found.provenance
    assert [layer["layer"] for layer in about["layers"]] == [0, LAYER]
    assert about["layers"][1]["dictionary_sha256"] == gpt2.dictionary(LAYER).sha256
    assert about["reference"]["sha256"] == gpt2.carrier.reference.sha256
    assert (about["model_fingerprint"], about["k"]) == (gpt2.model.fingerprint, K)
    assert "torch" in about["versions"]


HOSTILE = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.sampled_from(
        ["\x1b[31m", "\x00", "\u202e", '"sealed_sha256": "' + "0" * 64, "", "\r\n", "=1+1"]
    ),
)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(drawn=st.lists(HOSTILE, min_size=1, max_size=12))
def test_token_strings_come_back_as_they_were(kept, tmp_path_factory, drawn):
    texts = [drawn[i % len(drawn)] for i in range(D_VOCAB)]
    folder = tmp_path_factory.mktemp("hostile")
    for name in ("table.parquet", "table.ndjson"):
        export_atlas([kept[1]], folder / name, texts)
    frame = read_atlas(folder / "table.parquet").frame
    lines = (folder / "table.ndjson").read_text("utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line]
    assert len(rows) == len(frame) == N
    for ids, tokens in TOKENS.items():
        expected = [[texts[i] for i in row] for row in frame[ids]]
        assert frame[tokens].to_list() == expected
        assert [row[tokens] for row in rows] == expected


def test_json_lines_hold_the_same_numbers(kept, frame, tmp_path):
    export_atlas([kept[1]], tmp_path / "table.ndjson")
    found = pl.read_ndjson(tmp_path / "table.ndjson", schema=dict(SCHEMA))
    assert_frame_equal(found, frame, check_exact=True)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_flipped_bit_of_a_table_is_found(kept, tmp_path_factory, data):
    content = bytearray(kept[1].pieces[0].read_bytes())
    at = data.draw(st.integers(0, 8 * len(content) - 1))
    content[at // 8] ^= 1 << at % 8
    path = tmp_path_factory.mktemp("flipped") / "table.parquet"
    path.write_bytes(content)
    with pytest.raises(DamagedError) as refused:
        read_atlas(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_is_no_whole_table_of_ours_is_one_line(kept, frame, tmp_path):
    path = tmp_path / "table.parquet"

    def refusal():
        with pytest.raises(StoreError) as refused:
            read_atlas(path)
        assert str(path) in str(refused.value)
        assert "\n" not in str(refused.value)
        return str(refused.value)

    assert "no such file" in refusal()
    for content in (b"", b"PAR1", b"hello\n" * 9000, kept[1].pieces[0].read_bytes()[:-1000]):
        path.write_bytes(content)
        assert "cut short, or was not written by qlens" in refusal()
    frame.write_parquet(path)
    assert "was not written by qlens" in refusal()
    path.write_bytes(b'"sealed_sha256": "' + b"0" * 64)
    assert "its checksum does not match" in refusal()
    write_sealed(frame, path, {"kind": "a shopping list"})
    assert "is not an atlas" in refusal()
    write_sealed(frame, path, {"kind": "atlas", "format": 99})
    assert "another version of qlens" in refusal()
    path.unlink()
    path.mkdir()
    assert "Is a directory" in refusal()


def test_a_table_takes_the_place_of_another_in_one_step(kept, tmp_path, monkeypatch):
    path = tmp_path / "table.parquet"
    path.write_text("older")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for ending in (".parquet", ".ndjson"):
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(StoreError) as refused:
                export_atlas([kept[1]], path.with_suffix(ending))
        assert f"no space left in {tmp_path}" in str(refused.value)
        assert "QLENS_CACHE_DIR" not in str(refused.value)
    assert path.read_text() == "older"
    assert os.listdir(tmp_path) == ["table.parquet"]
    export_atlas([kept[1]], path)
    assert len(read_atlas(path).frame) == N
    assert os.listdir(tmp_path) == ["table.parquet"]


@pytest.mark.parametrize("name", ["table.csv", "table", "table.parquet.gz"])
def test_a_format_that_is_none_of_ours_is_refused(kept, tmp_path, name):
    with pytest.raises(UsageError, match=r"end its name in \.parquet, or \.ndjson"):
        export_atlas([kept[1]], tmp_path / name)
    assert list(tmp_path.iterdir()) == []
