"""Results of passes over the reference, kept in the result cache under all that they depend on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lens_core.model import ResidualModel
from lens_core.reference import ReferenceSample
from lens_core.storage.fingerprint import fingerprint, versions
from lens_core.storage.results import RESULTS_FORMAT, ResultCache


class KeptResults:
    """Results about one model and reference: tensors by name, each under what was asked."""

    def __init__(
        self, model: ResidualModel, reference: ReferenceSample, results: ResultCache | None
    ) -> None:
        """`results` is where they are kept, `None` to keep nothing."""
        self._model = model
        self._reference = reference
        self._results = results

    def about(self, text: ReferenceSample) -> KeptResults:
        """Results about the same model and another text."""
        return KeptResults(self._model, text, self._results)

    def cached(
        self, asked: dict[str, Any], compute: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """The result for `asked`; if there is none, that of `compute()` is kept."""
        found = self.get(asked)
        return self.put(asked, compute()) if found is None else found

    def get(self, asked: dict[str, Any]) -> dict[str, Any] | None:
        """The result for `asked`, tensors on the model's device."""
        found = None if self._results is None else self._results.get(self._key(asked))
        return None if found is None else self._on_device(found)

    def put(self, asked: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
        """Keep `found`; returns what `get` would."""
        if self._results is None:
            return found
        plain = {
            name: value.cpu().numpy() if isinstance(value, Tensor) else value
            for name, value in found.items()
        }
        self._results.put(self._key(asked), plain)
        return self._on_device(plain)

    def _key(self, asked: dict[str, Any]) -> str:
        common = {
            "format": RESULTS_FORMAT,
            "model": self._model.fingerprint,
            "reference": self._reference.sha256,
            "dtype": str(self._model.dtype),
            "versions": versions(),
        }
        assert not asked.keys() & common, "what depends on it would be replaced"
        return fingerprint(asked | common)

    def _on_device(self, found: dict[str, Any]) -> dict[str, Any]:
        return {
            name: torch.from_numpy(value.copy()).to(self._model.device)
            if hasattr(value, "__array__")
            else value
            for name, value in found.items()
        }
