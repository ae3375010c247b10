"""Shape checks on the core, and the models that every test of the mathematics runs on."""

import gc
from pathlib import Path

import jaxtyping
import pytest
import torch
from hypothesis import HealthCheck, settings

from lens_core.model import ResidualModel
from lens_core.reference import ReferenceSample
from tests.models import ARCHITECTURES, tiny_hf, word_tokenizer
from tests.shapes import check_shapes
from tests.toys import MixingToy

torch.set_num_threads(1)
check_shapes()
# How long an example takes, or to draw one, depends on what else the machine does.
settings.register_profile(
    "any machine", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")

# Hugging Face casts RMSNorm and softmax to float32 whatever the model's dtype, so that two
# ways to the same number differ by float32 rounding; GPT-2 and the toys are float64 throughout.
EXACT = {"gpt2": 1e-10, "toy": 1e-10}
ROUNDED = 1e-5


def tolerance(architecture: str) -> float:
    """Largest relative difference between two exact ways to one vector."""
    return EXACT.get(architecture, ROUNDED)


# Files that take a minute and more are begun first, so that no worker is left alone with one.
LONG = ("test_demo", "test_workbench", "test_build_command", "test_terminal", "test_engine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in LONG)


def pytest_collection_finish() -> None:
    """Look for garbage among what tests make, and rarely: the libraries alone are half a million
    objects, and an app under test makes many that live as long as it does."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 100)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Check shapes in the tests of the core alone; others run the same code, and take longer."""
    is_of_core = item.path.is_relative_to(Path(__file__).parent / "lens_core")
    jaxtyping.config.update("jaxtyping_disable", not is_of_core)


@pytest.fixture(scope="session", params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def tiny(architecture: str) -> ResidualModel:
    """A tiny float64 model of each architecture that we claim, with norms away from identity."""
    return ResidualModel.from_hf(tiny_hf(architecture), None, architecture)


@pytest.fixture(scope="session", name="word_tokenizer")
def _word_tokenizer(tmp_path_factory):
    return word_tokenizer(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="session")
def toy() -> MixingToy:
    return MixingToy()


@pytest.fixture(scope="session")
def reference() -> ReferenceSample:
    """Five samples of twenty tokens (both position buckets), some positions left out."""
    tokens = torch.randint(0, 101, (5, 20), generator=torch.Generator().manual_seed(3))
    return ReferenceSample(tokens=tokens, origin="test", skip_first=1, skip_last=2)
