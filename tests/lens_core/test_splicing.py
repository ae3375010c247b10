"""A dictionary in the model that changes nothing changes nothing."""

import pytest
import torch

from lens_core.config import DictionaryConfig
from lens_core.dictionaries.load import load_dictionary
from lens_core.splicing import normed_end, spliced
from tests.lens_core.test_finite_differences import ALL, loaded
from tests.oracles import relative


@pytest.mark.parametrize("where", ALL)
def test_with_its_error_kept_the_model_is_unchanged(tiny, reference, where, tmp_path):
    """Wherever it writes: on the stream, in front of the MLP's post-norm, behind it."""
    _, ours = loaded(ALL[where], tiny, tmp_path)
    kept, _ = spliced(tiny, ours, reference.tokens, keep_error=True)
    plain = tiny.final_norm(tiny.sites(reference.tokens)[-1])
    assert relative(normed_end(tiny, ours, kept), plain) < 1e-6


def test_neurons_have_no_error(tiny, reference):
    ours = load_dictionary(DictionaryConfig(kind="neurons"), 1, tiny, dtype=torch.float64)
    plain = tiny.final_norm(tiny.sites(reference.tokens)[-1])
    for keep_error in (False, True):
        found, fired = spliced(tiny, ours, reference.tokens, keep_error=keep_error)
        assert relative(normed_end(tiny, ours, found), plain) < 1e-5
    h = tiny.mlp_norm(1)(tiny.sites(reference.tokens)[3])
    assert torch.allclose(fired.of(7), ours.encode(h)[..., 7], rtol=1e-5, atol=1e-7)
