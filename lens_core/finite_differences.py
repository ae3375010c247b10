"""What a feature does to the logits by running the model: Zero-Out and Token Change.

    Zero-Out        y(a_clean) - y(0)                  what the model loses without the feature
    Token Change    y(a_clamp) - y(a_clean)            what it gains with the feature set everywhere

averaged over the reference (paper, appendix on baselines; docs/method.md, sections 5 and 5a), with
the dictionary spliced in without its error on both sides (`lens_core.splicing`). The mean
difference of logits is linear in the normalised stream, so what is carried is the mean difference
of that, which is read with `W_U` alone.

The feature is set at every source of a sample; the mean is over the targets, of the first samples
only, because every feature costs passes of its own. Where setting it changes no activation of a
sample, that sample's difference is zero and it is not run: so Zero-Out reads on in the reference
until the feature has fired in as many samples as Token Change runs, or to its end.

Cost: one pass from the dictionary on over `SOURCES` tokens for a feature and value, besides one of
the unchanged model that all features of the dictionary share; about a second on the demo.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_core.carry import Carrier
from lens_core.dictionaries.feature_dictionary import FeatureDictionary
from lens_core.direct import Transported
from lens_core.memory import is_out_of_memory, release
from lens_core.model import Stream
from lens_core.splicing import Fired, Spliced, normed_end, obstacle, spliced
from lens_core.tally import samples_per_pass

SOURCES = 256
"""A feature is run on samples of so many tokens together, rounded up."""


@dataclass(frozen=True, eq=False)
class _Row:
    """A feature (by its place in the question) on a sample in which its value makes a change.

    `shift` is what is added to its activation at every position.
    """

    at: int
    sample: int
    shift: Float[Tensor, " pos"]


class FiniteDifferences:
    """Runs a carrier's model with features of its dictionaries set to values."""

    def __init__(self, carrier: Carrier) -> None:
        self._carrier = carrier
        self._model = carrier.model
        self._reference = carrier.reference
        self._batch = carrier.batch or samples_per_pass(carrier.model, carrier.reference)
        self._most = min(carrier.reference.samples, -(-SOURCES // carrier.reference.length))
        self._clean: _Clean | None = None

    def obstacle(self, dictionary: FeatureDictionary) -> str:
        """Why the model cannot be run with a dictionary in it; empty if it can."""
        return obstacle(dictionary)

    def carried(
        self,
        dictionary: FeatureDictionary,
        features: Sequence[int],
        clamp: float | None,
        tokens: int | None = None,
    ) -> list[Transported]:
        """The mean difference of the normalised stream for each feature; `None`: Zero-Out.

        Over the first samples that hold `tokens` targets; `None`: as the module says. Each result
        names the tokens behind it. It is zero where the value changes no activation.

        Raises:
            DictionaryError: the dictionary gives activations that are not finite.
        """
        results = self._carrier.results
        asked = [
            {
                "kind": "finite difference",
                "dictionary": dictionary.sha256,
                "feature": feature,
                "clamp": clamp,
                "tokens": tokens,
                "sources": SOURCES,
            }
            for feature in features
        ]
        kept = [results.get(each) for each in asked]
        missing = [at for at, found in enumerate(kept) if found is None]
        if missing:
            made = self._run(dictionary, [features[at] for at in missing], clamp, tokens)
            for at, (vector, n_tokens) in zip(missing, made, strict=True):
                kept[at] = results.put(asked[at], {"vector": vector, "n_tokens": n_tokens})
        return [
            Transported(
                found["vector"],
                dictionary.values[feature],
                None,
                None,
                normed=True,
                n_tokens=int(found["n_tokens"]),
            )
            for feature, found in zip(features, kept, strict=True)
            if found is not None
        ]

    def _run(
        self,
        dictionary: FeatureDictionary,
        features: Sequence[int],
        clamp: float | None,
        tokens: int | None,
    ) -> list[tuple[Float[Tensor, " d_model"], int]]:
        """The mean for each feature, and over how many targets."""
        if self._clean is None or self._clean.dictionary.sha256 != dictionary.sha256:
            self._clean = _Clean(self._carrier, dictionary, min(self._batch, self._most))
        rows: list[_Row] = []
        read = []
        for at, feature in enumerate(features):
            found, n_read = self._rows(self._clean, at, feature, clamp, tokens)
            rows += found
            read.append(n_read)
        values = dictionary.values[list(features)]
        sums = values.new_zeros(values.shape)
        done, at_once = 0, self._batch
        while done < len(rows):
            some = rows[done : done + at_once]
            try:
                part = self._differences(self._clean, some, values)
            except Exception as error:
                if at_once == 1 or not is_out_of_memory(error):
                    raise
                at_once //= 2
                release(self._model.device)
                continue
            place = torch.tensor([row.at for row in some], device=sums.device)
            sums.index_add_(0, place, part)
            done += len(some)
            if self._carrier.walks.progress is not None:
                self._carrier.walks.progress(done, len(rows))
        sums = 0.0 - sums if clamp is None else sums  # 0, not -0, where nothing changes
        each = self._reference.n_tokens // self._reference.samples
        return [(total / (n * each), n * each) for total, n in zip(sums, read, strict=True)]

    def _rows(
        self, clean: _Clean, at: int, feature: int, clamp: float | None, tokens: int | None
    ) -> tuple[list[_Row], int]:
        """The samples in which the value makes a change, and how many samples were looked at."""
        reference = self._reference
        each = reference.n_tokens // reference.samples
        limit = None if tokens is not None or clamp is not None else self._most
        last = self._most if clamp is not None else reference.samples
        if tokens is not None:
            last = min(reference.samples, -(-tokens // each))
        found: list[_Row] = []
        for first in range(0, last, clean.size):
            before = clean.batch(first // clean.size).fired.of(feature)[: last - first]
            counts = reference.counts[first : first + len(before)].to(before)
            shifts = ((clamp or 0.0) - before) * counts
            for inside in shifts.any(-1).nonzero()[:, 0].tolist():
                found.append(_Row(at, first + inside, shifts[inside]))
                if len(found) == limit:
                    return found, first + inside + 1
        return found, last

    def _differences(
        self, clean: _Clean, rows: Sequence[_Row], values: Float[Tensor, "features d_model"]
    ) -> Float[Tensor, "rows d_model"]:
        """Set minus unchanged, summed over each row's targets."""
        change = torch.stack([row.shift[:, None] * values[row.at] for row in rows])
        samples = [row.sample for row in rows]
        end = normed_end(self._model, clean.dictionary, clean.at(samples).moved(change))
        targets = self._targets[samples].to(end)
        return torch.einsum("rpd,rp->rd", end - clean.ends(samples), targets)

    @property
    def _targets(self) -> Bool[Tensor, "samples length"]:
        reference = self._reference
        if reference.ends is None:
            return reference.counts
        return torch.arange(reference.length) == reference.ends[:, None]


@dataclass(frozen=True, eq=False)
class _Batch:
    spliced: Spliced
    fired: Fired


class _Clean:
    """The unchanged model with one dictionary spliced in, as far as it was asked for."""

    def __init__(self, carrier: Carrier, dictionary: FeatureDictionary, size: int) -> None:
        """`size` is the number of samples that are run together."""
        self.dictionary = dictionary
        self.size = size
        self._model = carrier.model
        self._tokens = carrier.reference.tokens
        self._batches: dict[int, _Batch] = {}
        self._ends: dict[int, Float[Tensor, "pos d_model"]] = {}

    def batch(self, number: int) -> _Batch:
        """The samples from `number * size` on."""
        if number not in self._batches:
            tokens = self._tokens[number * self.size : (number + 1) * self.size]
            self._batches[number] = _Batch(*spliced(self._model, self.dictionary, tokens))
        return self._batches[number]

    def at(self, samples: Sequence[int]) -> Spliced:
        """The samples, each as often as it is named."""
        places = (divmod(sample, self.size) for sample in samples)
        return Spliced.together([self.batch(number).spliced[inside] for number, inside in places])

    def ends(self, samples: Sequence[int]) -> Stream:
        """The stream behind the final norm, for each of `samples`."""
        missing = sorted(set(samples) - self._ends.keys())
        if missing:
            found = normed_end(self._model, self.dictionary, self.at(missing))
            self._ends |= dict(zip(missing, found, strict=True))
        return torch.stack([self._ends[sample] for sample in samples])
