"""A model's name opens a hub id from the hub's cache or a path from disk, never another model."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from lens_core.config import ModelConfig
from lens_core.errors import ConfigError, ModelError
from lens_core.model_files import find_model, weights_of
from tests.lens_core.fake_hub import TOKEN, Respond, cached, hub_error, serving

NAME = "some/model"
SMALL = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "README.md": b"not asked for",
    "original/model.safetensors": b"another copy",
}
WHOLE = SMALL | {"model.safetensors": b"weights", "pytorch_model.bin": b"the same weights again"}
INDEX = json.dumps({"weight_map": {"a": "part-1.safetensors", "b": "part-2.safetensors"}}).encode()
SHARDED = SMALL | {
    "model.safetensors.index.json": INDEX,
    "part-1.safetensors": b"1",
    "part-2.safetensors": b"2",
}


def find(name: str, **options: Any) -> Path:
    return find_model(ModelConfig(name=name), **options)


def refusal(name: str, **options: Any) -> str:
    with pytest.raises(ModelError) as caught:
        find(name, **options)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 500
    assert TOKEN not in message
    return message


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return folder


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that holds a folder of the hub id's name."""
    folder = tmp_path / "elsewhere"
    write(folder / NAME, WHOLE)
    monkeypatch.chdir(folder)
    return folder


# Hub ids.


@pytest.mark.parametrize("files", [WHOLE, SHARDED], ids=["whole", "sharded"])
def test_a_cached_hub_id_opens_offline_whatever_lies_in_the_working_directory(
    files: dict[str, bytes], hub_cache: Path, elsewhere: Path
) -> None:
    snapshot = write(cached(hub_cache, NAME), files)

    assert find(NAME, offline=True) == snapshot
    assert find(NAME, beside=elsewhere) == snapshot


def test_a_hub_id_that_is_not_cached_never_becomes_a_folder(
    hub_cache: Path, elsewhere: Path
) -> None:
    message = refusal(NAME, beside=elsewhere)

    assert "is not in the local Hugging Face cache, and this run is offline" in message
    assert f'for the folder {elsewhere / NAME} write "./{NAME}"' in message


def test_a_folder_of_the_working_directory_is_named_as_seen_from_the_configuration(
    hub_cache: Path, elsewhere: Path
) -> None:
    message = refusal(NAME, beside=elsewhere / "configs")

    assert f'for the folder {elsewhere / NAME} write "../{NAME}"' in message
    assert find_model(ModelConfig(name=str(elsewhere / "configs" / f"../{NAME}"))).is_dir()


def test_without_such_a_folder_the_form_of_a_path_is_said(hub_cache: Path, tmp_path: Path) -> None:
    assert f'a folder is written "./{NAME}"' in refusal(NAME, beside=tmp_path)


def test_a_half_fetched_model_says_what_would_be_fetched(hub_cache: Path, tmp_path: Path) -> None:
    write(cached(hub_cache, NAME), {k: v for k, v in SHARDED.items() if "part-2" not in k})

    assert f"online, qlens would fetch it from https://huggingface.co/{NAME}" in refusal(NAME)


@pytest.mark.parametrize("files", [WHOLE, SHARDED], ids=["whole", "sharded"])
def test_online_the_weights_and_the_tokenizer_are_fetched_and_nothing_twice(
    files: dict[str, bytes], hub_cache: Path, elsewhere: Path, hub: Callable[[Respond], None]
) -> None:
    asked: list[str] = []
    hub(serving(files, NAME, asked))

    snapshot = find(NAME)

    assert snapshot.is_relative_to(hub_cache)
    assert {str(path.relative_to(snapshot)) for path in snapshot.rglob("*") if path.is_file()} == {
        name for name in files if name not in ("README.md", "pytorch_model.bin") and "/" not in name
    }
    assert all((snapshot / f).read_bytes() == files[f] for f in ("config.json", "tokenizer.json"))
    asked.clear()
    assert find(NAME, offline=True) == snapshot
    assert asked == []


def test_weights_in_the_older_format_are_fetched_where_there_are_no_others(
    hub: Callable[[Respond], None],
) -> None:
    hub(serving(SMALL | {"pytorch_model.bin": b"weights"}, NAME, []))

    assert [path.name for path in weights_of(find(NAME))] == ["pytorch_model.bin"]


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (SMALL, "has neither model.safetensors nor pytorch_model.bin"),
        ({"README.md": b""}, "has no config.json"),
        ({"README.md": b"", "a.gguf": b"", "b.gguf": b""}, "download a GGUF and write the path"),
    ],
)
def test_a_repository_without_a_model_says_what_is_missing(
    files: dict[str, bytes], says: str, hub: Callable[[Respond], None]
) -> None:
    hub(serving(files, NAME, []))

    message = refusal(NAME)

    assert says in message
    assert NAME in message


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (
            401,
            "GatedRepo",
            "accept its terms on https://huggingface.co/some/model and set HF_TOKEN",
        ),
        (
            403,
            "GatedRepo",
            "accept its terms on https://huggingface.co/some/model and set HF_TOKEN",
        ),
        (401, "RepoNotFound", "no public repository https://huggingface.co/some/model"),
        (404, "RepoNotFound", "check [model].name"),
        (404, "RevisionNotFound", "no such revision: check [model].revision"),
        (429, "", "answered 429"),
        (500, "", "https://huggingface.co/some/model"),
    ],
)
def test_what_the_hub_answers_becomes_one_line(
    status: int, code: str, says: str, hub: Callable[[Respond], None]
) -> None:
    hub(lambda request: hub_error(request, status, code, f"no access for {TOKEN}"))

    message = refusal(NAME)

    assert says in message
    assert "Error" not in message


def test_an_unreachable_hub_is_one_line_and_what_is_cached_still_opens(
    hub_cache: Path, hub: Callable[[Respond], None]
) -> None:
    def fail(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError(f"name resolution failed, Bearer {TOKEN}\nsecond line")

    hub(fail)
    assert "cannot reach the Hugging Face hub to fetch it from" in refusal(NAME)
    snapshot = write(cached(hub_cache, NAME), WHOLE)
    assert find(NAME) == snapshot


@pytest.mark.parametrize(
    "name", ["models/a/b", "a b/c", "models/x/", "C:\\models\\x", ".hidden", "ü/x", "a/b#c", "-x"]
)
def test_a_name_that_no_hub_has_is_refused_before_the_hub_is_asked(
    name: str, hub: Callable[[Respond], None]
) -> None:
    hub(lambda request: pytest.fail(f"asked for {request.url}"))
    with pytest.raises(ConfigError, match="neither a path nor a hub id") as caught:
        find(name)
    assert f'"./{name}"' in str(caught.value)


# Paths.


def test_a_path_never_becomes_a_hub_id(hub_cache: Path, tmp_path: Path) -> None:
    write(cached(hub_cache, NAME), WHOLE)

    assert "there is no directory" in refusal(f"{tmp_path}/{NAME}")
    assert "there is no file" in refusal(f"{tmp_path}/model.gguf")


def test_a_directory_opens_by_any_path_to_it(tmp_path: Path, monkeypatch: Any) -> None:
    folder = write(tmp_path / "with space" / "[a] {b}" / "m", WHOLE)
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(folder)

    assert find(str(folder)) == find(f"{folder}/") == find(f"{folder}/../m") == folder
    assert find("~/with space/[a] {b}/m") == find(".") == find("../m/") == find("./") == folder
    assert find(str(tmp_path / "link")) == tmp_path / "link"


def test_a_home_of_nobody_is_one_line() -> None:
    with pytest.raises(ConfigError, match="there is no such user on this machine"):
        find("~nobody-of-this-name/model")


def test_a_gguf_opens_by_its_path_and_as_the_only_one_of_a_directory(tmp_path: Path) -> None:
    alone = write(tmp_path / "alone", {"x.gguf": b"", "README.md": b"", "config.json": b"{}"})
    both = write(tmp_path / "both", WHOLE | {"x.gguf": b""})
    upper = write(tmp_path / "upper", {"X.GGUF": b""})

    assert find(f"{alone}/x.gguf") == find(str(alone)) == alone / "x.gguf"
    assert find(str(both)) == both
    assert find(f"{both}/x.gguf") == both / "x.gguf"
    assert find(str(upper)) == find(f"{upper}/X.GGUF") == upper / "X.GGUF"


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "is empty: [model].name takes a directory that transformers saved"),
        ({"README.md": b""}, "holds no config.json"),
        ({"a.gguf": b"", "b.gguf": b""}, "holds 2 GGUF files (a.gguf, b.gguf): name one of them"),
        (SMALL, "holds no weights: qlens reads model.safetensors or pytorch_model.bin"),
        ({"config.json": b"{"}, "config.json cannot be read as JSON"),
        ({"config.json": b"\xff\xfe"}, "config.json cannot be read as JSON"),
        ({"config.json": b"[" * 100_000}, "config.json cannot be read as JSON: it is nested too"),
        ({"config.json": b"[]"}, "names no model_type"),
        ({"config.json": b'{"model_type": 3}'}, "names no model_type"),
        ({"adapter_config.json": b"{}"}, "holds an adapter"),
        (SMALL | {"model.safetensors.index.json": b"[]"}, "index.json is damaged"),
        (SMALL | {"model.safetensors.index.json": INDEX}, "lacks part-1.safetensors, part-2"),
        (SMALL | {"pytorch_model.bin.index.json": INDEX}, "pytorch_model.bin.index.json names"),
    ],
)  # fmt: skip
def test_a_directory_without_a_model_says_what_is_missing(
    files: dict[str, bytes], says: str, tmp_path: Path
) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    write(folder, files)

    message = refusal(str(folder))

    assert says in message
    assert str(folder) in message


def test_a_file_that_is_no_gguf_is_not_taken_for_a_directory(tmp_path: Path) -> None:
    write(tmp_path, {"model.safetensors": b""})

    assert "is a file: [model].name takes a directory or" in refusal(
        f"{tmp_path}/model.safetensors"
    )


def test_an_index_cannot_name_files_outside_of_its_directory(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", SMALL)
    (tmp_path / "outside.safetensors").write_bytes(b"")
    index = {"weight_map": {"a": "../outside.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    assert "lacks outside.safetensors" in refusal(str(folder))


def test_a_removed_working_directory_is_one_line(tmp_path: Path, monkeypatch: Any) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    shutil.rmtree(gone)
    try:
        with pytest.raises(ConfigError, match="the working directory, which was removed"):
            find("./model")
    finally:
        os.chdir(tmp_path)


@pytest.mark.parametrize("name", ["./" + "x" * 300, "/" + "y/" * 3000, "./a.gguf/b"])
def test_a_name_that_the_file_system_refuses_is_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"")
    with pytest.raises(ModelError, match=r"^(there is no directory|\S+ cannot be opened)"):
        find(f"{tmp_path}/{name}")
