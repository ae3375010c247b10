"""Where a feature fires, as plain data. No torch here; see `lens_core.signature`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TextFacts:
    """A text in which contexts were found: the reference, or a corpus that was read for them.

    It has `samples` of `length` tokens, of which `n_tokens` count in all. `sha256` identifies it.
    """

    is_reference: bool
    origin: str
    samples: int
    length: int
    n_tokens: int
    sha256: str


@dataclass(frozen=True)
class Context:
    """A sample of a text at the token where a feature fires most, and the tokens around it.

    `activations` are those of all of its tokens (`before`, `token`, `after`), `None` for positions
    that do not count; empty until they are computed.
    """

    sample: int
    position: int
    activation: float
    token_id: int
    before: tuple[str, ...]
    token: str
    after: tuple[str, ...]
    activations: tuple[float | None, ...] = ()

    @property
    def tokens(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.before, self.token, *self.after)


@dataclass(frozen=True)
class Neighbour:
    """A feature of the same layer, and the cosine of its vector with the given feature's."""

    layer: int
    feature: int
    cosine: float


@dataclass(frozen=True)
class Evidence:
    """Where a feature fires in a text, and its nearest features (docs/method.md, section 10).

    `density` is the share of the text's tokens on which it fires. A feature that fires on none is
    silent; no text is long enough to call it dead. `contexts` are the strongest, strongest first;
    `quarters` are some from each quarter of its range `(0, max_activation]`, the weakest quarter
    first, in each the strongest first. `histogram[i]` counts tokens with an activation above
    `i * bin_width` and up to `(i + 1) * bin_width`. A vector of length zero has no neighbours.
    """

    layer: int
    feature: int
    text: TextFacts
    density: float
    max_activation: float
    contexts: tuple[Context, ...]
    quarters: tuple[tuple[Context, ...], ...]
    histogram: tuple[int, ...]
    bin_width: float
    by_key: tuple[Neighbour, ...]
    by_value: tuple[Neighbour, ...]

    @property
    def n_tokens(self) -> int:
        """The tokens of the text that count."""
        return self.text.n_tokens

    @property
    def silent(self) -> bool:
        """Whether it fires on no token of the text."""
        return self.density == 0

    @property
    def every_context(self) -> tuple[Context, ...]:
        """The strongest contexts, and those of the quarters."""
        return (*self.contexts, *(each for quarter in self.quarters for each in quarter))

    @property
    def is_whole(self) -> bool:
        """Whether the activations in all contexts are there."""
        return all(each.activations for each in self.every_context)


@dataclass(frozen=True)
class SampleActivations:
    """A whole sample of a text and a feature's activation at each token.

    `None` for positions that do not count.
    """

    layer: int
    feature: int
    text: TextFacts
    sample: int
    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    activations: tuple[float | None, ...]
