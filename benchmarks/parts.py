"""The parts of `make bench` by name, in a module that their own processes can import."""

from __future__ import annotations

import os
from importlib import import_module

from benchmarks.measure import Report

PARTS = {
    "a": "whole_dictionary",
    "b": "passes",
    "c": "layer_lists",
    "d": "reverse_search",
    "f": "app",
    "g": "signature",
    "switches": "switches",
    "contexts": "contexts",
    "scores": "scores",
}


def run_part(name: str, *, quick: bool) -> Report:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    report: Report = import_module(f"benchmarks.{PARTS[name]}").run(quick=quick)
    return report
