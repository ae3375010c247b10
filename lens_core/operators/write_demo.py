"""Writes the operators that come with qlens, from sums over the two halves of the reference.

Run by `tools/make_demo_operators.py`; `lens_core.operators.demo` reads what it writes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lens_core.errors import OperatorError
from lens_core.feature_map import FeatureMap, vectors_of
from lens_core.feature_scores import compute_scales
from lens_core.lens import QueryLens
from lens_core.lenses import LENSES, QUERY
from lens_core.operators.demo import DEMO, FEATURES, FORMAT, MADE_FOR, OPERATORS, ShippedOperators
from lens_core.stability import split_half
from lens_core.storage.files import write_text_atomically
from lens_core.storage.fingerprint import fingerprint, versions
from lens_core.storage.tensors import write_tensors
from lens_core.terms import SIDES


def write_shipped(
    lens: QueryLens, halves: Mapping[str, list[Tensor]], directory: Path = DEMO
) -> ShippedOperators:
    """Write both files from sums over the two halves of the reference.

    Args:
        lens: a lens on the demo's model, reference and dictionaries.
        halves: float64 sums of each half: `value` and `key` at the sites of the layers in
            order, `[layers, d_model, d_model]`; `response` for all blocks.
    """
    model, reference = lens.model, lens.carrier.reference
    tokens = [
        (half.stop - half.start) * (reference.n_tokens // reference.samples)
        for half in reference.split_halves()
    ]
    sites = [2 * layer + 2 for layer in lens.dictionaries.layers]
    means = {name: torch.stack(parts).sum(0) / reference.n_tokens for name, parts in halves.items()}
    eye = torch.eye(model.d_model, dtype=torch.float64)
    tensors: dict[str, Tensor] = {}
    for at, site in enumerate(sites):
        tensors[f"value-{site}"] = means["value"][at]
        tensors[f"key-{site}"] = means["key"][at]
        tensors[f"first_order_value-{site}"] = eye + means["response"][site:].sum(0)
        tensors[f"first_order_key-{site}"] = eye + means["response"][:site].sum(0)
    tensors = {name: tensor.half() for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise OperatorError(f"{name} does not fit into float16")
    about: dict[str, Any] = {
        "format": str(FORMAT),
        "model": model.fingerprint,
        "model_name": model.name,
        "reference": reference.sha256,
        "reference_tokens": str(reference.n_tokens),
        "convention": "paper",
        "computed_in": str(model.dtype).removeprefix("torch."),
        "versions": json.dumps(versions()),
    }
    content = hashlib.sha256()
    for name in sorted(tensors):
        content.update(name.encode() + tensors[name].cpu().contiguous().numpy().tobytes())
    about["operators"] = fingerprint(about | {"content": content.hexdigest()})
    write_tensors(directory / OPERATORS, tensors, about)
    operators = ShippedOperators(directory, model.device, model.dtype)
    lens.carrier.operators = operators
    numbers: dict[str, Tensor] = {}
    for at, layer in enumerate(lens.dictionaries.layers):
        numbers |= _numbers(lens, layer, {
            side: [halves[side][half][at] / tokens[half] for half in range(2)]
            for side in ("value", "key")
        })  # fmt: skip
    write_tensors(directory / FEATURES, numbers, {"operators": about["operators"]})
    of = {"format": FORMAT, "model": model.fingerprint, "reference": reference.sha256}
    write_text_atomically(directory / MADE_FOR, json.dumps(of, indent=1) + "\n")
    return operators


def _numbers(lens: QueryLens, layer: int, halves: Mapping[str, list[Tensor]]) -> dict[str, Tensor]:
    """The stability and scales of one layer's features, for both sides."""
    dictionary = lens.dictionaries[layer]
    found = {}
    for side in SIDES:
        parts = [half.to(lens.model.device, lens.model.dtype) for half in halves[side]]
        maps = [FeatureMap(part.T if side == "value" else part) for part in parts]
        readout = lens.readout(QUERY.readouts[side])
        stability = split_half(readout, vectors_of(side, dictionary), maps, lens.k)
        found[f"{dictionary.sha256}.{side}_stability_{lens.k}"] = stability
        for each in LENSES:
            if each.needs_operators:
                name = f"{dictionary.sha256}.{side}_scale_{each.name}"
                found[name] = compute_scales(lens, dictionary, side, each)
    return {name: tensor.float() for name, tensor in found.items()}
