"""The user's marks of one feature, for commands."""

from __future__ import annotations

from qlens_tui.cli.output import Output
from qlens_tui.triage.marks import Mark


def mark_of(output: Output, sha256: str, feature: int) -> Mark | None:
    """The marks of a feature of this dictionary; `None`, and a warning, if they cannot be read."""
    from lens_core.errors import StoreError
    from qlens_tui.triage.backups import why_missing
    from qlens_tui.triage.database import triage_path
    from qlens_tui.triage.triage import Triage

    path = triage_path()
    try:
        if not path.exists() and not why_missing(path):
            return Mark()  # without making a file
        with Triage() as triage:
            if triage.warning:
                output.note(f"warning: {triage.warning}")
            return triage.mark(sha256, feature)
    except StoreError as error:
        output.note(f"warning: marks not shown: {error}")
        return None


def in_words(mark: Mark) -> str:
    """`star; label: body; tags: a, b; note: ...`, raw; empty if there are no marks."""
    kinds = (("star", mark.star), ("reject", mark.reject))
    texts = (("label", mark.label), ("tags", ", ".join(mark.tags)), ("note", mark.note))
    found = [kind for kind, has in kinds if has]
    return "; ".join([*found, *(f"{kind}: {text}" for kind, text in texts if text)])
