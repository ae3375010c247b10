"""Where the numbers on the screen come from, in lines of a name and a text."""

from __future__ import annotations

from collections.abc import Iterator

from qlens_tui.engine import messages as m

_OF_DICTIONARY = ("hook_read", "architecture", "key", "folder", "release", "id")


def provenance(
    ready: m.SessionFacts | None, layer: m.LayerFacts | None
) -> Iterator[tuple[str, str]]:
    """Lines about the model, the reference and a layer's dictionary, if known."""
    if ready is not None:
        reference = ready.reference
        yield "model", f"{ready.model} ({ready.dtype} on {ready.device})"
        yield (
            "reference",
            f"{reference.samples} x {reference.length} tokens of {reference.origin}, "
            f"{reference.n_tokens} of them count ({reference.sha256[:12]})",
        )
        settings = ready.settings
        yield "settings", f"{settings.convention} convention, final norm {settings.final_norm}"
    if layer is not None:
        yield "dictionary", f"{layer.dictionary} ({layer.sha256[:12]})"
        yield "operators", layer.operators
        for name in _OF_DICTIONARY:
            if name in layer.provenance:
                yield name.replace("_", " "), layer.provenance[name]
