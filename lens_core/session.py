"""From a configuration to a ready lens: model, reference, dictionaries, operators, cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lens_core.atlas.list_scores import AtlasLists
from lens_core.carry import Carrier
from lens_core.config import Config
from lens_core.contexts.files import ContextShelf
from lens_core.dictionaries.formats import available_layers
from lens_core.dictionaries.load import load_dictionary
from lens_core.directories import OPERATORS, cache_dir, caches, results_dir
from lens_core.hub import is_offline
from lens_core.instruments import DictionaryShelf
from lens_core.left_contexts import left_contexts
from lens_core.lens import QueryLens
from lens_core.loading import choose_device, load_model
from lens_core.model import ResidualModel
from lens_core.operators.contents import is_usable
from lens_core.operators.demo import ShippedOperators, shipped_operators
from lens_core.operators.files import Operators
from lens_core.operators.plan import operator_inputs
from lens_core.reference import ReferenceSample, check_file, load_evidence_text, load_reference
from lens_core.storage.fingerprint import fingerprint, versions
from lens_core.storage.results import RESULTS_FORMAT, ResultCache
from lens_core.terms import Progress, Settings
from lens_core.vocabulary import Vocabulary
from lens_core.vocabulary_states import VocabularyStates

Say = Callable[[str], None]


@dataclass(frozen=True)
class Session:
    """An open configuration: the `lens`, and what it was made from."""

    config: Config
    cache: Path
    model: ResidualModel
    reference: ReferenceSample
    lens: QueryLens
    contexts: ContextShelf
    lists: AtlasLists

    @property
    def settings(self) -> Settings:
        """The default settings."""
        return self.lens.settings

    @property
    def content(self) -> str:
        """Sha256 of all that answers depend on besides dictionary, feature and settings (hex)."""
        operators, text = self.lens.carrier.operators, self.lens.text
        return fingerprint(
            {
                **({} if text is self.reference else {"text": text.sha256}),
                "format": RESULTS_FORMAT,
                "versions": versions(),
                "model": self.model.fingerprint,
                "vocabulary": self.lens.vocabulary.sha256,
                "reference": self.reference.sha256,
                "dtype": str(self.model.dtype),
                "k": self.lens.k,
                "operators": ""
                if operators is None
                else f"{operators.origin} {operators.fingerprint}",
            }
        )

    @property
    def operators_directory(self) -> Path:
        """Where this model's operators on this reference are built."""
        return operators_directory(self.cache, self.model, self.reference)


def operators_directory(cache: Path, model: ResidualModel, reference: ReferenceSample) -> Path:
    """The directory of these operators in a cache, named by fingerprint."""
    dtype = str(model.dtype).removeprefix("torch.")
    return cache / OPERATORS / fingerprint(operator_inputs(model.fingerprint, reference, dtype))


def open_session(
    config: Config,
    *,
    offline: bool = False,
    say: Say | None = None,
    progress: Progress | None = None,
) -> Session:
    """Load everything that `config` names; dictionaries are loaded on first use.

    Finished operators are taken from the cache, read-only from `QLENS_SHARED_CACHE`, or, for the
    demo, from qlens itself.
    """
    say = say or (lambda _text: None)
    offline = offline or is_offline()
    cache = cache_dir()
    device = choose_device(config.compute.device)
    check_file(config.reference)
    model = load_model(
        config.model,
        device=device,
        dtype=config.compute.dtype,
        cache_dir=cache,
        offline=offline,
        beside=config.path.parent,
        say=say,
    )
    say("reading the reference")
    assert model.tokenizer is not None
    reference = load_reference(
        config.reference, model.tokenizer, d_vocab=model.d_vocab, offline=offline
    )
    layers = available_layers(config.dictionary, model.n_layers)
    shelf = DictionaryShelf(
        layers,
        lambda layer: load_dictionary(
            config.dictionary, layer, model, dtype=model.dtype, device=model.device, offline=offline
        ),
    )
    batch = config.compute.batch
    carrier = Carrier(
        model,
        reference,
        _finished_operators(cache, model, reference),
        ResultCache(results_dir(cache)),
        batch=None if batch == "auto" else batch,
        memory=config.compute.memory_bytes,
        progress=progress,
    )
    text = load_evidence_text(
        config.reference, reference, model.tokenizer, d_vocab=model.d_vocab, offline=offline
    )
    vocabulary = Vocabulary(model.tokenizer, model.d_vocab)
    states = VocabularyStates(cache, model, left_contexts(reference))
    lens = QueryLens(carrier, shelf, vocabulary, config.lens, text=text, states=states)
    contexts = ContextShelf(cache, model, text)
    return Session(config, cache, model, reference, lens, contexts, AtlasLists(cache, lens))


def _finished_operators(
    cache: Path, model: ResidualModel, reference: ReferenceSample
) -> Operators | ShippedOperators | None:
    for root in caches(cache):
        directory = operators_directory(root, model, reference)
        if is_usable(directory):
            # The directory is named by the fingerprint that its content must have.
            return Operators(
                directory, model.device, expected=directory.name, writable=root == cache
            )
    return shipped_operators(
        model.fingerprint, reference.sha256, device=model.device, dtype=model.dtype
    )
