"""The shape checks that all tests of the core run under see a wrong shape."""

import jaxtyping
import pytest
import torch

from lens_core.feature_map import FeatureMap, rows_of
from lens_core.reference import ReferenceSample


def test_a_wrong_argument_of_a_function():
    with pytest.raises(jaxtyping.TypeCheckError, match="rows_of"):
        rows_of("value", torch.zeros(3, 3, 3))


def test_a_wrong_argument_of_a_method():
    with pytest.raises(jaxtyping.TypeCheckError, match="__call__"):
        FeatureMap()(torch.zeros((), dtype=torch.int64))


def test_a_wrong_field():
    with pytest.raises(jaxtyping.TypeCheckError, match="ReferenceSample"):
        ReferenceSample(torch.zeros(3, 3), "test")
