"""References from data sets: the real library on local files, the hub's failures by their own
exceptions."""

from __future__ import annotations

import os
from pathlib import Path

import httpx
import huggingface_hub
import huggingface_hub.errors as hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import lens_core.documents as documents
import lens_core.reference as reference_module
from lens_core.config import ReferenceConfig
from lens_core.errors import SampleError
from lens_core.reference import (
    ReferenceSample,
    load_reference,
)
from tests.lens_core.byte_text import BYTES, V, assert_one_line, load, texts_of

datasets = pytest.importorskip("datasets")


def write_dataset(folder: Path, texts: list[str | None], column: str = "text") -> None:
    table = pa.table({column: pa.array(texts, pa.string()), "meta": list(range(len(texts)))})
    pq.write_table(table, folder / "train-00000-of-00001.parquet")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = str(tmp_path_factory.mktemp("datasets"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    datasets.disable_progress_bars()


def load_local(folder: Path, offline: bool = False, **settings: object) -> ReferenceSample:
    """What `hub:` does, on a folder of data files instead of a name on the hub."""
    config = ReferenceConfig(source="hub:owner/name", **settings)
    texts = documents.train_texts(str(folder), offline=offline)
    return ReferenceSample(reference_module.sample_chunks(texts, BYTES, config, V), "local")


@pytest.mark.parametrize("limit", [-1, 1 << 30], ids=["streamed", "downloaded"])
def test_a_data_set_gives_its_train_texts_in_order(
    limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(tmp_path, [f"document {i} " for i in range(100)])
    pq.write_table(pa.table({"text": ["test"]}), tmp_path / "test-00000-of-00001.parquet")
    real = datasets.load_dataset_builder

    def of_known_size(path: str):
        builder = real(path)
        builder.info.download_size = 1
        return builder

    monkeypatch.setattr(datasets, "load_dataset_builder", of_known_size)
    monkeypatch.setattr(documents, "DOWNLOAD_LIMIT", limit)
    texts = list(documents.train_texts(str(tmp_path), offline=False))
    assert texts == [f"document {i} " for i in range(100)]
    kept = any(Path(datasets.config.HF_DATASETS_CACHE).rglob("*.arrow"))
    assert kept == (limit > 0)


def test_no_special_token_is_added_between_documents(tmp_path: Path) -> None:
    write_dataset(tmp_path, ["abc", "defg", "", "h"])
    [row] = load_local(tmp_path, samples=1, length=8).tokens
    assert BYTES.decode(row) == "abcdefgh"


def put_in_cache(name: str, texts: list[str], folder: Path) -> None:
    """Leave what an earlier, connected run leaves in the cache of `datasets`."""
    write_dataset(folder, texts)
    builder = datasets.load_dataset_builder(str(folder))
    builder.download_and_prepare()
    owner, _, dataset = name.partition("/")
    place = Path(datasets.config.HF_DATASETS_CACHE) / f"{owner}___{dataset}" / "default" / "0.0.0"
    place.mkdir(parents=True)
    os.rename(builder.cache_dir, place / "0123456789abcdef")
    for file in (place / "0123456789abcdef").glob("*.arrow"):
        file.rename(file.with_name(f"{dataset}-train.arrow"))


def test_a_data_set_in_the_cache_is_read_offline(connected: None, tmp_path: Path) -> None:
    put_in_cache("owner/pile", [f"{i:08d}" for i in range(64)], tmp_path)
    config = ReferenceConfig(source="hub:owner/pile", samples=16, length=8)
    sample = load_reference(config, BYTES, d_vocab=V, offline=True)
    assert set(texts_of(sample)) <= {f"{i:08d}" for i in range(64)}
    assert sample.origin == "hub:owner/pile"


def test_offline_without_a_copy_says_what_would_be_fetched(connected: None) -> None:
    config = ReferenceConfig(source="hub:NeelNanda/pile-10k")
    with pytest.raises(SampleError) as caught:
        load_reference(config, BYTES, d_vocab=V, offline=True)
    message = assert_one_line(caught.value)
    assert "data set NeelNanda/pile-10k is not in the local Hugging Face cache" in message
    assert "this run is offline" in message
    assert "https://huggingface.co/datasets/NeelNanda/pile-10k" in message
    assert 'source = "bundled"' in message
    assert datasets.config.HF_HUB_OFFLINE is False


def test_the_environment_forbids_the_hub_as_the_option_does(
    connected: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def reach(path: str) -> None:
        assert datasets.config.HF_HUB_OFFLINE, "the network was used"
        raise hub.OfflineModeIsEnabled

    monkeypatch.setattr(datasets, "load_dataset_builder", reach)
    with pytest.raises(SampleError, match="this run is offline"):
        load("hub:NeelNanda/pile-10k")


def test_a_folder_of_the_same_name_is_not_taken_for_the_data_set(
    connected: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "owner" / "name"
    folder.mkdir(parents=True)
    write_dataset(folder, ["not the hub's text"] * 100)
    monkeypatch.chdir(tmp_path)
    config = ReferenceConfig(source="hub:owner/name", samples=1, length=8)
    with pytest.raises(SampleError, match="not in the local Hugging Face cache"):
        load_reference(config, BYTES, d_vocab=V, offline=True)


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing forbids the network, as far as the libraries know; no test uses it."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)


def response(status: int) -> httpx.Response:
    return httpx.Response(status, request=httpx.Request("GET", "https://huggingface.co"))


NOT_FOUND = datasets.exceptions.DatasetNotFoundError


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (hub.GatedRepoError("401 Client Error.\nhf_secret", response=response(401)), "HF_TOKEN"),
        (NOT_FOUND("Dataset 'owner/name' is a gated dataset on the Hub."), "accept its terms"),
        (
            hub.RepositoryNotFoundError("404", response=response(404)),
            "there is no public repository",
        ),
        (
            NOT_FOUND("Dataset 'owner/name' doesn't exist on the Hub"),
            "there is no public repository",
        ),
        (
            ConnectionError("Couldn't reach 'owner/name' on the Hub"),
            "cannot reach the Hugging Face hub",
        ),
        (
            httpx.ConnectError("[Errno -2] Name or service not known"),
            "cannot reach the Hugging Face hub",
        ),
        (httpx.ReadTimeout("timed out"), "cannot reach the Hugging Face hub"),
        (hub.LocalEntryNotFoundError("not cached"), "cannot reach the Hugging Face hub"),
        (hub.HfHubHTTPError("500\nfor hf_secret", response=response(500)), "answered 500"),
        (
            hub.OfflineModeIsEnabled("Offline mode is enabled."),
            "not in the local Hugging Face cache",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_a_failure_of_the_hub_is_one_line_with_the_page(
    failure: Exception, said: str, connected: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: str) -> None:
        raise failure

    monkeypatch.setattr(datasets, "load_dataset_builder", fail)
    with pytest.raises(SampleError, match=said) as caught:
        load("hub:owner/name")
    message = assert_one_line(caught.value)
    assert "https://huggingface.co/datasets/owner/name" in message
    assert "hf_secret" not in message


@pytest.mark.parametrize(
    "failure",
    [
        ValueError("Config name is missing.\nPlease pick one among the available configs: ['a']"),
        RuntimeError("Dataset scripts are no longer supported, but found name.py"),
        OSError(28, "No space left on device"),
        datasets.exceptions.DatasetGenerationError("An error occurred\nwhile generating"),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_any_other_failure_of_a_data_set_is_one_line_with_its_name(
    failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: str) -> None:
        raise failure

    monkeypatch.setattr(datasets, "load_dataset_builder", fail)
    with pytest.raises(SampleError, match="data set owner/name cannot be read: ") as caught:
        load("hub:owner/name")
    message = assert_one_line(caught.value)
    assert (getattr(failure, "strerror", None) or str(failure).split("\n")[0][:20]) in message
    assert "hf_secret" not in message


@pytest.mark.parametrize(
    ("texts", "column", "said"),
    [
        (["a", "b"], "content", 'row 0 has no text in a column "text"; its columns are content'),
        (["a", None], "text", "row 1 has no text"),
    ],
)
def test_a_data_set_without_texts_names_its_columns(
    texts: list[str | None],
    column: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_dataset(tmp_path, texts, column)
    local = datasets.load_dataset_builder(str(tmp_path))
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda path: local)
    with pytest.raises(SampleError, match=f"data set owner/name: {said}") as caught:
        load("hub:owner/name")
    assert_one_line(caught.value)


def test_a_data_set_without_a_train_split_names_those_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "validation-00000-of-00001.parquet")
    local = datasets.load_dataset_builder(str(tmp_path))
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda path: local)
    with pytest.raises(SampleError, match=r"owner/name cannot be read: .*validation") as caught:
        load("hub:owner/name")
    assert_one_line(caught.value)
