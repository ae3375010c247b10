"""`qlens build --lens forward`, and the lenses that need what it computes."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.qlens_tui.workplace import Workplace, make_workplace
from tests.waiting import PATIENCE, held, until

SMALL = "import lens_core.vocabulary_states as states\nstates.TOKENS_PER_PART = 100\n"
LENSES = ("--lens", "forward", "--lens", "forward+first-order")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return make_workplace(tmp_path_factory.mktemp("original"))


@pytest.fixture
def place(original: Workplace, request: pytest.FixtureRequest) -> Workplace:
    return original.with_cache(request.node.name)


def files(place: Workplace) -> dict[str, bytes]:
    found = (place.cache / "lenses").rglob("*.safetensors")
    return {path.name: path.read_bytes() for path in found}


def test_show_has_the_lists_once_the_states_are_there(place: Workplace) -> None:
    asked = ("show", place.config, "1:3", "--no-paths", *LENSES)
    before = place.document(*asked)["key"]
    for name in ("forward", "forward_first_order"):
        assert "run `qlens build CONFIG --lens forward`" in before[name]["reason"]
    result = place.run("build", place.config, "--lens", "forward", "--layers", "1")
    assert result.exit_code == 0, result.stderr
    assert result.stderr.splitlines()[-1].startswith("qlens: 100% (")
    assert result.stdout.startswith("states at 1 site, complete, ")
    found = place.document(*asked)["key"]
    for name, measure in (("forward", "cosine"), ("forward_first_order", "z sum")):
        assert found[name]["measure"] == measure
        assert len(found[name]["tokens"]) == len(found["query_lens"]["tokens"])
    printed = place.run(*asked).stdout
    assert "Forward and first order" in printed
    assert "z sum" in printed
    again = place.run("build", place.config, "--lens", "forward", "--layers", "1")
    assert "every part is there: nothing to compute" in again.stderr
    assert "lenses" in place.run("cache", "info").stdout
    assert place.run("cache", "verify").exit_code == 0
    assert place.run("cache", "clear", "--kind", "lenses", "--yes").exit_code == 0
    assert not files(place)


def test_the_document_tells_sites_contexts_and_size(place: Workplace) -> None:
    found = place.document("build", place.config, "--lens", "forward", "--layers", "0,2")
    assert found["sites"] == [1, 5]
    assert found["complete"]
    assert found["parts"] == 1
    assert all(found["left_contexts"])
    assert Path(found["directory"]).is_dir()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_run_goes_on_where_it_was_and_gives_the_same_files(
    place: Workplace, how: signal.Signals
) -> None:
    command = ("build", place.config, "--lens", "forward", "--layers", "0,1")
    writing = place.folder / f"writing-{how}"
    process = place.start_prepared(
        *command,
        first=SMALL + held("lens_core.vocabulary_states.write_tensors", writing, after=3),
    )
    until(writing.exists, "the fourth part is being written", process)
    process.send_signal(how)
    _, errors = process.communicate(timeout=PATIENCE)

    assert len(files(place)) == 3
    if how is signal.SIGINT:
        assert process.returncode == 130
        assert "run the same command again to resume" in errors.splitlines()[-1]
    whole = place.with_cache("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lens_core.vocabulary_states.TOKENS_PER_PART", 100)
        for each in (place, whole):
            resumed = each.run(*command)
            assert resumed.exit_code == 0, resumed.stderr
    assert files(place) == files(whole)


def test_a_layer_that_is_not_there_is_one_line(place: Workplace) -> None:
    assert "no dictionary for layer 9" in place.refusal(
        2, "build", place.config, "--lens", "forward", "--layers", "9"
    )


def test_layers_are_for_a_lens(place: Workplace) -> None:
    said = place.refusal(2, "build", place.config, "--layers", "1")
    assert "operators are of all layers: --layers is for --lens" in said
