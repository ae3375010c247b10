"""Where the text of a corpus comes from. No torch here: a command checks it before it loads any."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lens_core.config.sections import ReferenceSource
from lens_core.documents import held_out_documents, hub_documents, text_documents
from lens_core.errors import ConfigError, UsageError


@dataclass(frozen=True)
class CorpusSource:
    """Where text comes from: a data set of the hub, a file, or the bundled held-out text."""

    kind: Literal["hub", "text", "bundled"]
    location: str

    @classmethod
    def parse(cls, written: str) -> CorpusSource:
        """`hub:OWNER/NAME`, `bundled`, or else the path of a text file."""
        if written == "bundled":
            return cls("bundled", "")
        if written.startswith("hub:"):
            try:
                return cls("hub", ReferenceSource.parse(written).location)
            except ConfigError:
                raise UsageError(
                    f"--corpus {written!r} is not hub:OWNER/NAME, such as hub:NeelNanda/pile-10k"
                ) from None
        return cls("text", written)

    def __str__(self) -> str:
        return f"{self.kind}:{self.location}" if self.location else "bundled held-out text"

    def check(self) -> None:
        """Refuse a file that cannot be read or is not text, before a model is loaded.

        Raises:
            SampleError: it is one.
        """
        if self.kind == "text":
            next(self.documents(offline=True), None)

    def documents(self, *, offline: bool) -> Iterator[str]:
        """The text, piece by piece."""
        if self.kind == "bundled":
            return held_out_documents()
        if self.kind == "hub":
            return hub_documents(
                self.location, offline=offline, setting="--corpus", otherwise="use --corpus bundled"
            )
        return text_documents(Path(self.location), what="corpus")
