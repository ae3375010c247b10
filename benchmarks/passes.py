"""What an operator pass costs, in forward passes of the same tokens, and what a signature costs.

    python benchmarks/passes.py [--config smollm2-neurons] [--samples 16] [--passes 4]

Ratios of one run on one machine: each family's pass against one forward of the residual
stream (no unembedding), and the per-feature procedure (`torch.func.jvp` block by block)
against the same. Times are the smallest of several.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from lens_core.config import load_config
from lens_core.families import FAMILIES, Positions
from lens_core.linearization import Linearization
from lens_core.session import open_session
from lens_core.transition import key_transition, value_transition


def smallest(run: Callable[[], object], times: int) -> float:
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="smollm2-neurons")
    parser.add_argument("--samples", type=int, default=16, help="reference samples in the pass")
    parser.add_argument("--passes", type=int, default=4, help="passes to take the fastest of")
    chosen = parser.parse_args()

    session = open_session(load_config(chosen.config))
    model, reference = session.model, session.reference
    tokens = reference.tokens[: chosen.samples].to(model.device)
    positions = Positions(reference.included.start, reference.included.stop)
    print(f"{model.name} on {model.device}, {torch.get_num_threads()} threads, {model.dtype}")
    print(f"{len(tokens)} x {reference.length} tokens\n")

    forward = smallest(lambda: model.sites(tokens), chosen.passes)
    print(f"{'forward of the residual stream':42} {1000 * forward:9.1f} ms      1.00")

    def row(name: str, seconds: float) -> None:
        print(f"{name:42} {1000 * seconds:9.1f} ms  {seconds / forward:8.2f}")

    for forward_mode in (False, True):
        start = time.perf_counter()
        recording = Linearization(model, tokens, forward_mode=forward_mode)
        kind = "forward mode" if forward_mode else "reverse mode"
        row(f"recording for {kind} (once per unit)", time.perf_counter() - start)
        vector = torch.zeros(1, model.d_model, dtype=model.dtype, device=model.device)
        vector[0, 0] = 1
        for family in FAMILIES:
            if family.forward_mode == forward_mode:
                run = family.run
                row(
                    f"one {family.name} pass",
                    smallest(lambda: run(recording, vector, positions), chosen.passes),  # noqa: B023
                )
        del recording

    if len(tokens) == reference.samples:
        middle = model.n_layers // 2
        value, key = torch.randn(2, model.d_model, dtype=model.dtype, device=model.device)
        row(
            f"direct value, one feature of layer {middle}",
            smallest(lambda: value_transition(model, reference, value, 2 * middle + 2), 2),
        )
        row(
            f"direct key, one feature of layer {middle}",
            smallest(lambda: key_transition(model, reference, key, 2 * middle + 1), 2),
        )

    if session.lens.transport.operators is not None:
        layer = model.n_layers // 2
        session.lens.signature(layer, 0)
        features = iter(range(1, 1000))
        row(
            f"signature by operators, layer {layer}",
            smallest(lambda: session.lens.signature(layer, next(features)), 20),
        )
        start = time.perf_counter()
        session.lens.search(100)
        row("search of all layers, the first", time.perf_counter() - start)
        row("search of all layers, then", smallest(lambda: session.lens.search(100), 20))


if __name__ == "__main__":
    main()
