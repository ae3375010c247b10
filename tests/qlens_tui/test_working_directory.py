"""What a configuration opens does not depend on the working directory."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.qlens_tui.workplace import Workplace, make_workplace


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return make_workplace(tmp_path_factory.mktemp("place"))


@pytest.mark.parametrize("name", ["./model", "./model/", "../{folder}/model", "{folder}-link"])
def test_the_same_file_gives_the_same_answer_from_anywhere(
    place: Workplace, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if a folder there has the model's relative name and other weights."""
    link = place.folder / f"{place.folder.name}-link"
    if not link.is_symlink():
        link.symlink_to("model")
    written = name.format(folder=place.folder.name)
    written = f"./{written}" if written[0] != "." else written
    text = (place.folder / "tiny.toml").read_text("utf-8").replace('"./model"', json.dumps(written))
    config = place.write("from-anywhere.toml", text)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{")
    answers = []
    for stand in (place.folder, tmp_path, Path("/")):
        monkeypatch.chdir(stand)
        for path in (config, os.path.relpath(config)):
            answers.append(place.document("show", path, "1:3", "--no-paths", QLENS_CACHE_DIR=str(
                tmp_path / f"cache-{len(answers)}"
            )))  # fmt: skip

    assert all(answer == answers[0] for answer in answers)
    assert answers[0]["model"] == os.path.normpath(place.folder / written)


def test_the_header_names_what_was_opened(place: Workplace) -> None:
    printed = place.run("show", place.config, "1:3", "--no-paths").stdout

    assert str(place.folder / "model") in printed.replace("\n", "")


@pytest.mark.parametrize(
    ("encode", "says"),
    [
        (lambda text: b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(), None),
        (lambda text: text.replace("\n", "\r\n").encode(), None),
        (lambda text: text.encode("utf-16"), "is UTF-16 text: save it as UTF-8"),
        (lambda text: text.encode("utf-16-be"), "is not valid TOML"),
        (lambda text: text.replace("./model", "./modél").encode("latin-1"), "is not UTF-8 text"),
        (lambda text: text.replace("\n", "\r").encode(), "is not valid TOML"),
    ],
)
def test_a_file_of_another_editor_is_read_or_one_line(
    place: Workplace, encode: object, says: str | None
) -> None:
    assert callable(encode)
    path = place.folder / "edited.toml"
    path.write_bytes(encode((place.folder / "tiny.toml").read_text("utf-8")))
    if says is None:
        place.document("show", str(path), "1:3", "--no-paths")
    else:
        assert says in place.refusal(2, "show", str(path), "1:3", "--no-paths")


@pytest.mark.parametrize("name", ["with space", "[brackets]", "{braces}", "{layer}", "ü" * 60, "~"])
def test_a_folder_of_any_name_can_be_worked_in(place: Workplace, name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    for part in ("reference.txt", "tiny.toml"):
        shutil.copy(place.folder / part, folder)
    (folder / "model").symlink_to(place.folder / "model")
    document = Workplace(folder).document("show", str(folder / "tiny.toml"), "1:3", "--no-paths")
    assert document["model"] == str(folder / "model")
