"""A tiny lens of each architecture, and a corpus of words for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from lens_core.carry import Carrier
from lens_core.config import DictionaryConfig
from lens_core.dictionaries.load import load_dictionary
from lens_core.instruments import DictionaryShelf
from lens_core.lens import QueryLens
from lens_core.model import ResidualModel
from lens_core.reference import ReferenceSample
from lens_core.vocabulary import Vocabulary


@pytest.fixture
def lens(
    tiny: ResidualModel, reference: ReferenceSample, word_tokenizer: PreTrainedTokenizerBase
) -> QueryLens:
    """A lens on the model's neurons; passes of two samples."""
    config = DictionaryConfig(kind="neurons")
    shelf = DictionaryShelf(
        range(tiny.n_layers),
        lambda layer: load_dictionary(config, layer, tiny, dtype=tiny.dtype),
    )
    carrier = Carrier(tiny, reference, None, None, batch=2)
    return QueryLens(carrier, shelf, Vocabulary(word_tokenizer, tiny.d_vocab), k=5)


@pytest.fixture
def written(tmp_path: Path) -> Callable[[int], Path]:
    """A file of so many random words, one token each, in lines of seven."""

    def write(count: int, seed: int = 0) -> Path:
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(3, 101, (count,), generator=generator).tolist()
        path = tmp_path / f"words-{seed}.txt"
        lines = [" ".join(f"w{id_}" for id_ in ids[at : at + 7]) for at in range(0, count, 7)]
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    return write
