"""Measures the speed figures of the README: `make bench`, or `python -m benchmarks`.

    python -m benchmarks [--part a|b|c|d|f|g] [--quick]

Each part runs in its own process, so that its peak memory can be measured. Takes about twenty
minutes on two idle cores; `--quick` checks in two minutes that everything runs, on shapes too
small for meaningful figures.
"""

from __future__ import annotations

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

from benchmarks.measure import machine
from benchmarks.parts import PARTS, run_part


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure the speed figures of the README."
    )
    parser.add_argument("--part", choices=PARTS, action="append", help="only this; repeatable")
    parser.add_argument("--quick", action="store_true", help="only check that it runs")
    chosen = parser.parse_args()

    print(machine())
    if chosen.quick:
        print("quick: small shapes; the figures and verdicts mean nothing")
    spawn = multiprocessing.get_context("spawn")
    missed = []
    for part in chosen.part or PARTS:
        print(flush=True)
        with ProcessPoolExecutor(1, mp_context=spawn) as pool:
            report = pool.submit(run_part, part, quick=chosen.quick).result()
        print(report)
        missed += [f"({part}) {row.name}" for row in report.rows if row.met is False]
    if not chosen.quick:
        print(f"\nmissed: {'; '.join(missed)}" if missed else "\nevery target met")


if __name__ == "__main__":
    main()
