"""A lens with operators on the neurons of each tiny model."""

import pytest

from lens_core.carry import Carrier
from lens_core.config import DictionaryConfig
from lens_core.dictionaries.load import load_dictionary
from lens_core.instruments import DictionaryShelf
from lens_core.lens import QueryLens
from lens_core.vocabulary import Vocabulary


@pytest.fixture
def lens(tiny, reference, word_tokenizer, operators) -> QueryLens:
    config = DictionaryConfig(kind="neurons")
    shelf = DictionaryShelf(
        range(tiny.n_layers),
        lambda layer: load_dictionary(config, layer, tiny, dtype=tiny.dtype),
    )
    carrier = Carrier(tiny, reference, operators, None, batch=2)
    return QueryLens(carrier, shelf, Vocabulary(word_tokenizer, tiny.d_vocab), k=5)
