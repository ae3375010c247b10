"""What others say about features: in the table, beside the feature, in filters and files."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from qlens_tui.export.write import read_export
from qlens_tui.table.known_layer import KnownLayer
from tests.qlens_tui.app.desk import NARROW, SIZES, run, settled, told
from tests.qlens_tui.app.simulated_time import until
from tests.qlens_tui.app.terminal import screen_of

pytestmark = pytest.mark.usefixtures("place")

SAID = {
    (0, 1): "words about rivers",
    (0, 7): "Stones, and what is under them: " + "moss " * 40,
    (0, 9): "[red]\x1b[31mred\u202e \x1b]52;c;cHduZWQ=\x07",
    (1, 0): "the next layer's",
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "said.jsonl"
    records = [{"layer": a, "feature": b, "text": text} for (a, b), text in SAID.items()]
    path.write_text("\n".join(map(json.dumps, records)))
    return path


async def explained(bench):
    await until(lambda: "explanation" in bench.table.rows.frame.columns, "the file was read")


@pytest.mark.parametrize("size", SIZES)
def test_explanations_are_a_column_and_beside_the_feature(place, file, size):
    async def act(terminal, bench):
        await explained(bench)
        await settled(terminal.pilot, "j")
        assert "explanation" in bench.table.lines[0]
        assert "words about" in bench.table.lines[2]
        if size[0] >= 140:
            assert "0:1  words about rivers" in bench.query_one("#feature").lines[0]
        await settled(terminal.pilot, "tab", "tab", "tab", "tab")
        assert " explained  words about rivers" in bench.pane("evidence").lines[1]
        await settled(terminal.pilot, "escape", "l")
        assert "the next layer's" in bench.pane("evidence").lines[1]
        assert told(bench.app) == ""

    run(place, act, size=size, explanations=file)


def test_a_long_explanation_is_whole_beside_the_feature(place, file):
    async def act(terminal, bench):
        await explained(bench)
        await settled(terminal.pilot, ":", *"0:7", "enter", "tab", "tab", "tab", "tab")
        assert "".join(bench.pane("evidence").lines).count("moss") == 40

    run(place, act, explanations=file)


def test_they_are_filtered_sorted_and_exported(place, file, tmp_path):
    async def act(terminal, bench):
        await explained(bench)
        await settled(terminal.pilot, "f", *"explanation:STONES", "enter")
        assert bench.table.rows.features().rows() == [(0, 7)]
        assert "Stones" in bench.table.lines[1]
        await settled(terminal.pilot, "f")
        terminal.pilot.app.screen.query_one("#typed").value = "explanation like '%river%'"
        await settled(terminal.pilot, "enter")
        assert bench.table.rows.features().rows() == [(0, 1)]
        await settled(terminal.pilot, "escape", "escape")
        assert len(bench.table.rows) == 24
        await settled(terminal.pilot, "o", *"explan", "enter")
        ordered = [number for _, number in bench.table.rows.features().rows()]
        assert ordered[:3] == [9, 7, 1]
        await settled(terminal.pilot, "e", "enter")
        terminal.pilot.app.screen.query_one("#typed").value = "out.csv"
        await settled(terminal.pilot, "enter")
        written = read_export(tmp_path / "out.csv")
        assert written["explanation"].to_list() == [SAID.get((0, n), "").strip() for n in ordered]

    run(place, act, size=NARROW, explanations=file)


@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_a_hostile_explanation_reaches_no_terminal_raw(place, file, size, ascii_only):
    async def act(terminal, bench):
        await explained(bench)
        await settled(terminal.pilot, ":", *"0:9", "enter")
        assert r"[red]\x1b[31m" in "".join(bench.table.lines)
        await settled(terminal.pilot, "tab", "tab", "tab", "tab")
        assert r"[red]\x1b[31mred\u202e" in bench.pane("evidence").lines[1]
        assert r"[red]\x1b[31mred" in screen_of(terminal.written, *size)
        assert terminal.leaks() == set()

    run(place, act, size=size, ascii_only=ascii_only, explanations=file)


def test_what_is_left_out_is_said_once_in_one_line(place, file, tmp_path):
    with file.open("a") as more:
        more.write('\n{"layer": 0, "feature": 24, "text": "one too many"}\noops\n')

    async def act(terminal, bench):
        await explained(bench)
        await settled(terminal.pilot)
        (notice,) = bench.app._notifications
        assert notice.message == (
            "said.jsonl: 1 line left out: line 6 of said.jsonl is not a JSON record; "
            "1 explanation left out, of features that the dictionary does not have, such as 0:24"
        )
        await settled(terminal.pilot, "j")
        assert "words about rivers" in bench.query_one("#feature").lines[0]

    run(place, act, explanations=file)


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "no such file"), (b"", "it is empty"), (b"\xff\xfe", "UTF-16"), (b"\x00\x01", "JSON")],
)
def test_the_app_opens_whatever_the_file_is(place, tmp_path, content, said):
    file = tmp_path / "said.jsonl"
    if content is not None:
        file.write_bytes(content)

    async def act(terminal, bench):
        await settled(terminal.pilot)
        assert said in told(bench.app)
        assert "\n" not in told(bench.app)
        await settled(terminal.pilot, "f", *"explanation:x", "enter")
        assert "there are no explanations: name a file" in "".join(bench.table.lines)

    run(place, act, explanations=file)


def test_the_address_on_neuronpedia_is_copied_where_there_is_one(place, tmp_path):
    async def act(terminal, bench):
        await settled(terminal.pilot, "j", "Y")
        assert "layer 0's dictionary names no page on Neuronpedia" in told(bench.app)
        known: KnownLayer = bench.state.opened.known[0]
        bench.state.opened.known[0] = replace(known, neuronpedia="gpt2-small/0-res-jb")
        await settled(terminal.pilot, "Y")
        address = "https://www.neuronpedia.org/gpt2-small/0-res-jb/1\n"
        assert (tmp_path / "state" / "copied.txt").read_text() == address
        assert bench.app.clipboard == address

    run(place, act, size=NARROW)
