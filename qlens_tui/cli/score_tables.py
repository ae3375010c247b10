"""The table of `qlens score`, and what it is about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qlens_tui.cli.output import Output
from qlens_tui.formats import counted

if TYPE_CHECKING:
    from lens_core.reference import ReferenceSample
    from lens_core.scores.output_score import OutputProtocol
    from lens_core.scores.report import Judged
    from lens_core.scores.rows import ScoreRow

_SHOWN = 25


def input_facts(output: Output, text: ReferenceSample, judged: Sequence[Judged]) -> list[str]:
    """Which features were judged, and in which text."""
    from lens_core.scores.input_score import CONTEXTS

    of = [each for each in judged if each.protocol == judged[0].protocol]
    features = counted(sum(len(each.features) for each in of), "feature")
    out = sum(each.left_out for each in of)
    return [
        f"input: {features} in {CONTEXTS} contexts of {text.length} tokens; {out:,} left out: "
        "fewer contexts, or no list",
        f"{counted(text.n_tokens, 'token')} of {output.shown(text.origin)}",
    ]


def output_facts(judged: Sequence[Judged], protocol: OutputProtocol) -> list[str]:
    """Which features were judged, and how they were steered."""
    from lens_core.neutral_prefixes import SCORING
    from lens_core.scores.output_score import TARGETS
    from lens_core.scores.published import MARGIN, WRITTEN

    features = counted(sum(len(each.features) for each in judged), "feature")
    out = sum(each.left_out for each in judged)
    targets = " and ".join(f"{target:g}" for target in TARGETS)
    how = f"KL {targets} behind {len(SCORING)} prefixes"
    if protocol == "published":
        targets = " and ".join(f"{target:g} to {target + MARGIN:g}" for target in TARGETS)
        how = f"KL {targets}, {WRITTEN} tokens written behind each of {len(SCORING)} prefixes"
    return [f"output: {features} steered to {how}; {out:,} that do not reach it left out"]


def fidelity_facts(judged: Sequence[Judged]) -> list[str]:
    """How many features each protocol judged."""
    found = []
    for protocol in dict.fromkeys(each.protocol for each in judged):
        of = [each for each in judged if each.protocol == protocol]
        features = counted(sum(len(each.features) for each in of), "feature")
        out = sum(each.left_out for each in of)
        found.append(f"{protocol}: {features}; {out:,} without a direction left out")
    return found


def print_rows(output: Output, rows: Sequence[ScoreRow], form: str, facts: Sequence[str]) -> None:
    """Print the rows, of one length of lists if they are not for a program."""
    from rich.text import Text

    from lens_core.scores.rows import columns, frame, markdown, paper_layout
    from qlens_tui.cli.tables import plain_table

    if form == "csv":
        output.text(frame(rows).write_csv())
        return
    longest = max((k for _, _, k in columns(rows) if k is not None), default=_SHOWN)
    shown = [row for row in rows if row.k in (None, min(longest, _SHOWN))]
    if form == "markdown":
        output.text("\n".join([markdown(shown), *facts]))
        return
    head, body = paper_layout(shown)
    table = plain_table()
    for at, name in enumerate(head):
        table.add_column(output.shown(name), justify="left" if at == 1 else "right")
    for line in body:
        table.add_row(*map(output.shown, line))
    output.show(table, *map(Text, facts))
