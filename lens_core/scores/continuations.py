"""Continuations that a model writes behind texts, and how likely every token was on the way.

    p = softmax(logits / `temperature`)    the next token: the first whose sum of p passes a number

Each text goes on by itself (free-running). What is kept of the distributions, from which its tokens
were drawn, is the mean rank percentile of every token of the vocabulary (`percentiles`). The
numbers are drawn by the caller, so that the same ones give the same text, whatever the batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from lens_core.dictionaries.feature_dictionary import FeatureDictionary
from lens_core.growing_texts import GrowingTexts
from lens_core.memory import Parts, samples_at_once
from lens_core.model import ResidualModel
from lens_core.reference import ReferenceSample
from lens_core.scores.output_score import percentiles
from lens_core.splicing import normed_end, spliced
from lens_core.tally import BLOCK_BYTES

_WORKING_STREAMS = 24  # besides those that are kept, per text


@dataclass(frozen=True, eq=False)
class Continued:
    """Texts with what was written behind them.

    `ranks` are the mean rank percentiles of all tokens over the positions that were written.
    `is_finite`: whether all logits of a text were.
    """

    tokens: Int64[Tensor, "texts length"]
    ranks: Float[Tensor, "texts d_vocab"]
    is_finite: Bool[Tensor, " texts"]


class Continuations:
    """Writes `length` tokens behind each of `texts`, with features of a dictionary set."""

    def __init__(
        self,
        model: ResidualModel,
        dictionary: FeatureDictionary,
        texts: ReferenceSample,
        length: int,
        temperature: float,
    ) -> None:
        """`texts` are short texts (`ReferenceSample.ends`)."""
        assert texts.ends is not None
        self._model, self._dictionary = model, dictionary
        self._length, self._temperature = length, temperature
        self._texts = texts.tokens.to(model.device)
        self._ends = texts.ends.to(model.device)
        longest = texts.length + length
        streams = model.n_layers + _WORKING_STREAMS
        item = torch.finfo(model.dtype).bits // 8
        each = streams * longest * model.d_model * item
        self._parts = Parts(samples_at_once(model.device, longest, each), model.device)

    def written(
        self,
        draws: Float[Tensor, "texts length"],
        feature: int | None = None,
        strength: float = 0.0,
    ) -> Continued:
        """With `feature` set to `strength` at every position (`None`: the unchanged model).

        `draws` are in [0, 1), a number for each token.
        """

        def some(rows: slice) -> Continued:
            return self._written(rows, draws[rows], feature, strength)

        return _together(self._parts.each(len(self._texts), some))

    def rescored(self, tokens: Int64[Tensor, "texts length"]) -> Continued:
        """The same texts as the model has them with the dictionary in it, without its error.

        Raises:
            DictionaryError: activations are not finite.
        """

        def some(rows: slice) -> Continued:
            made, _ = spliced(self._model, self._dictionary, tokens[rows])
            normed = normed_end(self._model, self._dictionary, made)
            scored = _Scored(self._model, len(normed))
            at = torch.arange(len(normed), device=normed.device)
            for step in range(self._length):
                for _ in scored.add(normed[at, self._ends[rows] + step]):
                    pass
            return scored.of(tokens[rows], self._length)

        return _together(self._parts.each(len(tokens), some))

    @torch.no_grad()
    def _written(
        self, rows: slice, draws: Tensor, feature: int | None, strength: float
    ) -> Continued:
        texts, ends = self._texts[rows], self._ends[rows]
        n, before = texts.shape
        tokens = torch.cat([texts, texts[:, -1:].expand(n, self._length)], 1)
        growing = GrowingTexts(self._model, self._dictionary, n, tokens.shape[1], feature, strength)
        at = torch.arange(n, device=texts.device)
        every = torch.arange(before, device=texts.device).expand(n, before)
        last = growing.read(tokens, every)[at, ends]
        scored = _Scored(self._model, n)
        for step in range(self._length):
            place = ends + 1 + step
            for some, logits in scored.add(last):
                drawn = sampled(logits, draws[some, step], self._temperature)
                tokens[at[some], place[some]] = drawn.to(tokens)
            if step + 1 < self._length:
                last = growing.read(tokens, place[:, None])[:, 0]
        return scored.of(tokens, self._length)


class _Scored:
    """Sums of rank percentiles over the positions that were added."""

    def __init__(self, model: ResidualModel, texts: int) -> None:
        self._model = model
        self._ranks = torch.zeros(texts, model.d_vocab, device=model.device)
        self._is_finite = torch.ones(texts, dtype=torch.bool, device=model.device)

    def add(self, normed: Float[Tensor, "texts d_model"]) -> Iterator[tuple[slice, Tensor]]:
        """Add a position of every text; yields the logits there, of some texts at a time."""
        at_once = max(1, BLOCK_BYTES // (8 * self._model.d_vocab))
        for start in range(0, len(normed), at_once):
            some = slice(start, start + at_once)
            logits = self._model.unembed(normed[some])
            self._ranks[some] += percentiles(logits)
            self._is_finite[some] &= logits.isfinite().all(-1)
            yield some, logits

    def of(self, tokens: Tensor, positions: int) -> Continued:
        return Continued(tokens, self._ranks / positions, self._is_finite)


def sampled(
    logits: Float[Tensor, "texts d_vocab"], draws: Float[Tensor, " texts"], temperature: float
) -> Int64[Tensor, " texts"]:
    """A token of each text: the first whose summed probability passes the text's number.

    In float64 on the CPU, where sums have the same order on every machine.
    """
    probabilities = (logits.cpu().double() / temperature).softmax(-1)
    passed = probabilities.cumsum(-1)
    wanted = draws.cpu().double()[:, None] * passed[:, -1:]
    return torch.searchsorted(passed, wanted, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)


def _together(some: list[Continued]) -> Continued:
    return Continued(
        torch.cat([each.tokens for each in some]),
        torch.cat([each.ranks for each in some]),
        torch.cat([each.is_finite for each in some]),
    )
