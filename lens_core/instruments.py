"""What every computation on features needs: carrier, readouts, dictionaries, vocabulary.

`QueryLens` (`lens_core.lens`) adds the computations as methods; paths, search and the atlas take
an `Instruments` as their argument.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from lens_core.carry import Carrier
from lens_core.config import DictionaryConfig, LensConfig
from lens_core.dictionaries.feature_dictionary import FeatureDictionary
from lens_core.dictionaries.layers import demand_feature, demand_layer
from lens_core.dictionaries.load import load_dictionary
from lens_core.finite_differences import FiniteDifferences
from lens_core.memory import free_bytes
from lens_core.model import ResidualModel
from lens_core.readout import Readout, Readouts
from lens_core.reference import ReferenceSample, reference_center
from lens_core.state_readouts import StateReadouts
from lens_core.steering import Steering
from lens_core.terms import Projection, Settings, Side
from lens_core.tuned_lens import Translators, load_translators
from lens_core.vocabulary import Vocabulary
from lens_core.vocabulary_states import VocabularyStates

DictionaryLoader = Callable[[int], FeatureDictionary]


class Instruments:
    """Carrier, readouts, dictionaries and vocabulary of one model and reference."""

    def __init__(
        self,
        carrier: Carrier,
        dictionaries: DictionaryShelf,
        vocabulary: Vocabulary,
        config: LensConfig | None = None,
        *,
        k: int | None = None,
        states: VocabularyStates | None = None,
    ) -> None:
        """`config` gives the default settings; `k` replaces its `k`.

        `states` are those of the vocabulary; `None`: a lens that needs them has no list.
        """
        self.carrier = carrier
        self.model: ResidualModel = carrier.model
        self.dictionaries = dictionaries
        self.vocabulary = vocabulary
        self.config = config or LensConfig()
        self.readouts = Readouts(
            self.model, lambda: reference_center(self.model.embedding, carrier.reference)
        )
        self.k = min(k or self.config.k, self.model.d_vocab)
        self.differences = FiniteDifferences(carrier)
        self.states = states
        self._state_readouts: StateReadouts | None = None
        self._steering: tuple[tuple[str, str], Steering] | None = None
        self._neurons: dict[tuple[int, Projection], FeatureDictionary] = {}
        self._translators: Translators | None = None
        # One number per feature for each side and lens that was searched.
        self.scales: dict[tuple[Side, str, str], Tensor] = {}

    @property
    def translators(self) -> Translators:
        """The parameters of Tuned Lens, read on first use.

        Raises:
            LensFileError: they cannot be read, or do not belong to the model.
        """
        if self._translators is None:
            assert self.config.tuned is not None, "the lens has no list without them"
            self._translators = load_translators(self.config.tuned, self.model)
        return self._translators

    @property
    def state_readouts(self) -> StateReadouts:
        """The readouts of keys by the states of the vocabulary."""
        if self._state_readouts is None:
            assert self.states is not None, "a lens that needs them is missing without"
            self._state_readouts = StateReadouts(self.states)
        return self._state_readouts

    def steering(self, dictionary: FeatureDictionary, texts: ReferenceSample) -> Steering:
        """Steers features of `dictionary` on `texts`; kept for the dictionary asked for last."""
        known = dictionary.sha256, texts.sha256
        if self._steering is None or self._steering[0] != known:
            self._steering = None  # let go of one before making another
            self._steering = known, Steering(self.model, dictionary, texts)
        return self._steering[1]

    def neurons(self, dictionary: FeatureDictionary, key: Projection) -> FeatureDictionary:
        """The same gated neurons, by the keys of one projection."""
        known = (dictionary.layer, key)
        if known not in self._neurons:
            self._neurons = {
                known: load_dictionary(
                    DictionaryConfig(kind="neurons", key=key),
                    dictionary.layer,
                    self.model,
                    dtype=self.model.dtype,
                    device=self.model.device,
                )
            }
        return self._neurons[known]

    @property
    def settings(self) -> Settings:
        """The default settings."""
        config = self.config
        return Settings(config.transition, config.convention, config.final_norm)

    def dictionary(self, layer: int, feature: int = 0) -> FeatureDictionary:
        """The dictionary of `layer`.

        Raises:
            UsageError: there is none, or it has no such feature.
        """
        dictionary = self.dictionaries[layer]
        demand_feature(layer, feature, dictionary.n_features)
        return dictionary

    def readout(self, name: str, *, normed: bool = False) -> Readout:
        """The readout `name`; `normed`: for vectors to which the norm was already applied."""
        readout = self.readouts[name]
        return readout.derivative if normed else readout


class DictionaryShelf:
    """The dictionaries of a configuration, loaded on first use.

    They are kept while they fit in `budget` bytes (`None`: a quarter of the memory free on the
    first one's device); the least recently used one is dropped first.
    """

    def __init__(
        self, layers: Sequence[int], load: DictionaryLoader, budget: int | None = None
    ) -> None:
        self.layers = tuple(layers)
        self._load = load
        self._budget = budget
        self._kept: dict[int, FeatureDictionary] = {}

    def __getitem__(self, layer: int) -> FeatureDictionary:
        demand_layer(layer, self.layers)
        dictionary = self._kept.pop(layer, None) or self._load(layer)
        if self._budget is None:
            self._budget = free_bytes(dictionary.keys.device) // 4
        self._kept[layer] = dictionary
        while len(self._kept) > 1 and sum(map(_bytes, self._kept.values())) > self._budget:
            del self._kept[next(iter(self._kept))]
        return dictionary


def _bytes(dictionary: FeatureDictionary) -> int:
    # Twice, because `encode` holds its own copy of the weights.
    return 2 * (dictionary.keys.nbytes + dictionary.values.nbytes)
