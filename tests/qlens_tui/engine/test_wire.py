"""Messages with any strings are read back unchanged; invalid ones are refused."""

import io
import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlens_tui.engine import messages as m
from qlens_tui.engine.wire import (
    LARGEST_FRAME,
    WireError,
    decode,
    encode,
    messages_of,
    read_frame,
    write_message,
)

SIGN, PROMPT, PATHS = "ComputeSignature", "ReadPrompt", "ComputePaths"

# Lone surrogates, and pairs of them that JSON's escapes would join.
anything = st.text(st.characters(), max_size=40) | st.text('\ud83d\ude00\udcff\x00\x1b[]"\\a')
numbers = st.floats(allow_nan=False) | st.integers(-(2**53), 2**53).map(float)
tokens = st.builds(
    m.TokenList,
    readout=anything,
    measure=anything,
    ids=st.lists(st.integers(), max_size=3).map(tuple),
    tokens=st.lists(anything, max_size=5).map(tuple),
    scores=st.lists(numbers, max_size=3).map(tuple),
    unit_scores=st.none() | st.lists(numbers, max_size=3).map(tuple),
    moved=st.lists(st.integers(), max_size=3).map(tuple),
)
lists = st.builds(m.Lists, st.dictionaries(anything, tokens, max_size=3))
sides = st.builds(
    m.SideSignature, lists, st.none() | lists, numbers, numbers, st.none() | numbers, st.none()
)
firings = st.builds(
    m.FiringFeatures,
    st.lists(st.integers(0), max_size=3).map(tuple),
    st.lists(numbers, max_size=3).map(tuple),
)
events = (
    st.builds(m.SignatureReady, id=st.integers(0), signature=st.builds(
        m.Signature, layer=st.integers(0), feature=st.integers(0),
        method=st.sampled_from(["operator", "direct"]), operators=st.just("built"),
        settings=st.builds(m.Settings, off=st.frozensets(st.integers(0))),
        n_tokens=st.integers(), value=sides, key=sides,
    ))
    | st.builds(m.PromptReady, id=st.integers(0), prompt=st.builds(
        m.PromptFirings, layer=st.integers(0), text=anything,
        feature=st.none() | st.integers(0), bos=st.booleans(),
        ids=st.lists(st.integers(0)).map(tuple), tokens=st.lists(anything).map(tuple),
        strongest=st.lists(firings, max_size=3).map(tuple),
        activations=st.none() | st.lists(numbers, max_size=3).map(tuple),
    ))
    | st.builds(m.ResemblingReady, found=st.builds(
        m.Resembling, layer=st.integers(0), feature=st.integers(0),
        likeness=st.sampled_from(["both", "value", "key"]),
        features=st.lists(st.integers(0)).map(tuple), of=st.integers(0),
        value=st.lists(st.none() | numbers).map(tuple), key=st.lists(numbers).map(tuple),
    ))
    | st.builds(m.CosinesReady, cosines=st.builds(
        m.PairCosines, layer=st.integers(0), feature=st.integers(0), other_layer=st.integers(0),
        other_feature=st.integers(0), settings=st.just(m.Settings()), n_tokens=st.integers(),
        value=st.builds(m.SideCosines, raw=st.none() | numbers, carried=numbers),
        key=st.builds(m.SideCosines, raw=numbers, carried=st.none() | numbers),
    ))
    | st.builds(m.Released, id=st.just(0))
    | st.builds(m.VocabularyReady, tokens=st.lists(anything).map(tuple))
    | st.builds(m.Status, text=anything, done=st.integers(), eta=st.none() | numbers)
)  # fmt: skip


@given(events)
def test_events_come_back_as_they_were(event):
    assert decode(encode(event), m.Event) == event


@given(st.dictionaries(anything, anything | st.integers() | st.none(), max_size=4), anything)
def test_requests_come_back_as_they_were(overrides, config):
    asked = m.Open(id=3, config=config, overrides=overrides, offline=True)
    assert decode(encode(asked), m.Request) == asked


@given(anything, st.none() | st.integers(0))
def test_any_text_can_be_asked_about(text, feature):
    asked = m.ReadPrompt(id=2, layer=1, text=text, feature=feature)
    assert decode(encode(asked), m.Request) == asked


def test_a_tuple_among_overrides_and_a_pair_stay_tuples():
    asked = m.Open(config="c", overrides={"layers": (1, 2)})
    assert decode(encode(asked), m.Request) == asked
    described = m.LayerReady(layer=m.LayerFacts(
        layer=1, dictionary="d", sha256="0", n_features=4, operators="none",
        value_blocks=(2, 6), key_blocks=(0, 2), provenance={"a": "b"}, atlas=None,
    ))  # fmt: skip
    assert decode(encode(described), m.Event) == described


@given(st.lists(events, max_size=4))
def test_a_stream_gives_what_was_written_to_it(written):
    stream = io.BytesIO()
    for event in written:
        write_message(stream, event)
    stream.seek(0)
    assert list(messages_of(stream, m.Event)) == written


@given(st.binary(max_size=60))
def test_bytes_are_a_message_or_an_error_and_nothing_else(content):
    try:
        found = decode(content, m.Request)
    except WireError as error:
        found = str(error)
    assert isinstance(found, m.Request) or "\n" not in found


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ([], "not an object"),
        ({"kind": "Quit"}, "no request called 'Quit'"),
        ({"kind": "Signature"}, "no request called"),
        ({"kind": SIGN, "layer": 1}, "is not ComputeSignature"),
        (
            {"kind": SIGN, "layer": 1, "feature": 2, "colour": 3},
            "is not ComputeSignature",
        ),
        ({"kind": SIGN, "layer": True, "feature": 2}, "True is not int"),
        ({"kind": SIGN, "layer": 1.0, "feature": 2}, "1.0 is not int"),
        (
            {"kind": SIGN, "layer": 1, "feature": 2, "settings": {"off": [1, "2"]}},
            "'2' is not",
        ),
        (
            {
                "kind": SIGN,
                "layer": 1,
                "feature": 2,
                "settings": {"transition": "whole"},
            },
            "whole",
        ),
        ({"kind": PROMPT, "layer": 1, "text": None}, "None is not str"),
        ({"kind": PROMPT, "layer": 1, "text": "a", "feature": 1.5}, "1.5 is not"),
        ({"kind": PATHS, "layer": 1, "feature": 2, "side": ["key"]}, "is not"),
    ],
)
def test_what_does_not_fit_the_types_is_refused(document, complaint):
    with pytest.raises(WireError, match=complaint):
        decode(json.dumps(document).encode(), m.Request)


def test_deep_nesting_and_endless_numbers_are_refused():
    for content in (b"[" * 100_000, b'{"kind":' + b"9" * 10_000 + b"}"):
        with pytest.raises(WireError, match="not JSON"):
            decode(content, m.Request)


def test_a_stream_goes_on_after_a_frame_that_is_no_message_but_not_after_a_length_that_is_none():
    stream = io.BytesIO()
    stream.write((3).to_bytes(4, "big") + b"{]}")
    write_message(stream, m.Shutdown(id=7))
    stream.write((LARGEST_FRAME + 1).to_bytes(4, "big") + b"x" * 50)
    stream.seek(0)
    garbled, asked, lost = messages_of(stream, m.Request)
    assert (asked, garbled.lost, lost.lost) == (m.Shutdown(id=7), False, True)


@pytest.mark.parametrize("cut", [1, 3, 5, -1])
def test_a_stream_that_ends_inside_a_frame_is_an_error(cut):
    stream = io.BytesIO()
    write_message(stream, m.Build())
    with pytest.raises(WireError):
        read_frame(io.BytesIO(stream.getvalue()[:cut]))


def test_what_a_reader_would_not_take_is_not_sent():
    stream = io.BytesIO()
    with pytest.raises(WireError, match="too large"):
        write_message(stream, m.Status(text="x" * (LARGEST_FRAME + 1)))
    assert stream.getvalue() == b""


def test_the_app_side_of_the_engine_imports_no_torch_and_no_transformers():
    program = (
        "import sys, qlens_tui.engine.client, qlens_tui.engine.messages, qlens_tui.engine.wire\n"
        "print([name for name in ('torch', 'transformers', 'polars', 'lens_core.lens')"
        " if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.stdout.strip() == "[]", found.stderr
