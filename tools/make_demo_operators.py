"""Computes the operators that ship with the demo's SAEs, and what depends on them.

    python tools/make_demo_operators.py --work DIR

For the layers of `sample_configs/demo.toml`, over its reference, in float32 with the sums of
micro-batches in float64: the mean operators of both sides, and the sums of the first-order
responses, as `lens_core/data/demo/operators.safetensors` (float16); and each feature's stability
and scale on them as `features.safetensors`. The passes are those of `qlens build`, but only for the
sites that the layers need. Every micro-batch of every family is kept in DIR, so that an interrupted
run can be resumed (about 110 minutes on two cores, 12 parts).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor

from lens_core.config import load_config
from lens_core.linearization import Linearization
from lens_core.model import ResidualModel
from lens_core.operators.demo import DEMO
from lens_core.operators.passes import FAMILIES, Family, Positions
from lens_core.operators.write_demo import write_shipped
from lens_core.session import Session, open_session
from lens_core.storage.tensors import open_tensors, write_tensors

MICRO_BATCH = 16


class Segment:
    """The stream of `model` from site `start` to site `stop`."""

    def __init__(self, model: ResidualModel, start: int, stop: int) -> None:
        self._model, self._start = model, start
        self.n_blocks = stop - start
        self.d_model, self.dtype, self.device = model.d_model, model.dtype, model.device

    def embed(self, tokens: Tensor) -> Tensor:
        return self._model.sites(tokens, last=self._start)[-1]

    def block(self, k: int, h: Tensor) -> Tensor:
        return self._model.block(self._start + k, h)


def part(session: Session, family: Family, samples: range, sites: list[int], path: Path) -> None:
    """The sums of one family over one micro-batch, `[sites or blocks, d_model, d_model]`."""
    model, reference = session.model, session.reference
    first = min(sites) if family.name == "value" else 0
    last = max(sites) if family.name == "key" else model.n_blocks
    segment = Segment(model, first, last)
    tokens = reference.tokens[samples.start : samples.stop]
    recording = Linearization(segment, tokens, forward_mode=family.forward_mode)
    positions = Positions.of(reference, samples)
    places = (
        list(range(model.n_blocks))
        if family.name == "response"
        else [site - first for site in sites]
    )
    sums = torch.zeros(len(places), model.d_model, model.d_model)
    start = time.monotonic()
    for row in range(model.d_model):
        unit = torch.zeros(1, model.d_model, dtype=model.dtype)
        unit[0, row] = 1
        found = family.run(recording, unit, positions)[0].double().sum(1)[places].float()
        # A reverse pass gives a row, a forward-mode pass a column.
        if family.forward_mode:
            sums[:, :, row] = found
        else:
            sums[:, row] = found
        if row % 64 == 63:
            rate = (row + 1) / (time.monotonic() - start)
            print(f"{path.name} {row + 1}/{model.d_model} passes, {rate:.2f} a second", flush=True)
    write_tensors(path, {"sums": sums}, made_of(sites, samples))


def made_of(sites: list[int], samples: range) -> dict[str, str]:
    return {"sites": str(sites), "samples": f"{samples.start}-{samples.stop}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    arguments = parser.parse_args()
    session = open_session(load_config("demo"), say=print)
    model, reference = session.model, session.reference
    layers = session.lens.dictionaries.layers
    sites = [2 * layer + 2 for layer in layers]
    work = arguments.work / f"{model.fingerprint[:8]}-{reference.sha256[:8]}"
    halves: dict[str, list[Tensor]] = {}
    for family in FAMILIES:
        for half in reference.split_halves():
            total = torch.zeros((), dtype=torch.float64)
            for at in range(half.start, half.stop, MICRO_BATCH):
                samples = range(at, min(at + MICRO_BATCH, half.stop))
                path = work / f"{family.name}-{at:03d}.safetensors"
                if not path.exists():
                    part(session, family, samples, sites, path)
                with open_tensors(path) as file:
                    file.verify()
                    if not made_of(sites, samples).items() <= file.metadata.items():
                        raise SystemExit(f"{path} is of other layers or samples: remove it")
                    total = total + file.get("sums").double()
            halves.setdefault(family.name, []).append(total)
    write_shipped(session.lens, halves, DEMO)


if __name__ == "__main__":
    main()
