"""Measures the speed figures of the README: `make bench`, or `python -m benchmarks`.

    python -m benchmarks [--part a|b|c|d|f|g|switches|contexts|scores] [--quick] [--json]

Each part runs in its own process, so that its peak memory can be measured. Takes about twenty
minutes on two idle cores; `--quick` checks in two minutes that everything runs, on shapes too
small for meaningful figures. `--json` prints a list of `{"part", "name", "value", "unit", "target",
"ok"}` instead, `null` where there is no target.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

from benchmarks.measure import Report, machine
from benchmarks.parts import PARTS, run_part


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure the speed figures of the README."
    )
    parser.add_argument("--part", choices=PARTS, action="append", help="only this; repeatable")
    parser.add_argument("--quick", action="store_true", help="only check that it runs")
    parser.add_argument("--json", action="store_true", help="print a list of figures")
    chosen = parser.parse_args()
    if chosen.json:
        print(json.dumps(_figures(chosen.part or list(PARTS), quick=chosen.quick), indent=1))
        return

    print(machine())
    if chosen.quick:
        print("quick: small shapes; the figures and verdicts mean nothing")
    missed = []
    for part in chosen.part or PARTS:
        print(flush=True)
        report = _run(part, quick=chosen.quick)
        print(report)
        missed += [f"({part}) {row.name}" for row in report.rows if row.met is False]
    if not chosen.quick:
        print(f"\nmissed: {'; '.join(missed)}" if missed else "\nevery target met")


def _run(part: str, *, quick: bool) -> Report:
    """A part, in a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(run_part, part, quick=quick).result()


def _figures(parts: list[str], *, quick: bool) -> list[dict[str, object]]:
    return [
        {
            "part": part,
            "name": row.name,
            "value": row.value,
            "unit": row.unit,
            "target": row.target,
            "ok": row.met,
        }
        for part in parts
        for row in _run(part, quick=quick).rows
    ]


if __name__ == "__main__":
    main()
