"""Results are kept under all that they depend on."""

from __future__ import annotations

import pytest

from lens_core.kept_results import KeptResults
from lens_core.storage.results import ResultCache


@pytest.mark.parametrize("name", ["format", "model", "reference", "dtype", "versions"])
def test_what_is_asked_cannot_be_hidden_by_what_all_results_depend_on(
    tiny, reference, tmp_path, name
):
    with ResultCache(tmp_path) as results:
        kept = KeptResults(tiny, reference, results)
        with pytest.raises(AssertionError):
            kept.get({"kind": "activity", name: 2})
        assert kept.get({"kind": "activity"}) is None
