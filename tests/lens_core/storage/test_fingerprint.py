"""A fingerprint depends on the content and on nothing else."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from importlib.metadata import version
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lens_core.storage.fingerprint import fingerprint, versions
from tests.lens_core.cache_files import JSON


def test_a_fingerprint_does_not_depend_on_the_order_of_keys() -> None:
    one = fingerprint({"model": "m", "settings": {"k": 25, "off": ["attn.1"]}})
    other = fingerprint({"settings": {"off": ["attn.1"], "k": 25}, "model": "m"})

    assert one == other
    assert len(bytes.fromhex(one)) == 32


def test_a_fingerprint_never_changes_between_releases() -> None:
    canonical = rb'{"a":"\u00e9","b":[1,0.1,null,true]}'

    found = fingerprint({"b": [1, 0.1, None, True], "a": "é"})

    assert found == hashlib.sha256(canonical).hexdigest()


@given(st.dictionaries(st.text(max_size=3), JSON, max_size=3), st.text(max_size=3), JSON)
def test_another_value_gives_another_fingerprint(
    content: dict[str, Any], key: str, value: Any
) -> None:
    # 1, 1.0 and True are equal to Python but not the same setting.
    assume(repr(content.get(key, ...)) != repr(value))

    assert fingerprint(content) != fingerprint(content | {key: value})


@pytest.mark.parametrize(
    "content", [{"x": float("nan")}, {"x": float("inf")}, {"x": {1: 2}}, {"x": b""}, {"x": {1, 2}}]
)
def test_what_json_would_bend_has_no_fingerprint(content: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        fingerprint(content)


def test_versions_are_read_without_importing_anything() -> None:
    found = versions()
    assert found["torch"] == version("torch")
    assert set(found) == {"qlens", "torch", "transformers", "transformer_lens", "sae_lens"}

    code = (
        "import sys; from lens_core.storage import fingerprint as store;"
        "store.versions(); store.fingerprint({});"
        "heavy = {'torch', 'numpy', 'transformers', 'sae_lens', 'safetensors'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
