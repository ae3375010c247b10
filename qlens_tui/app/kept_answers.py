"""Answers of the engine, kept by the request that they answer; of too many the oldest go."""

from __future__ import annotations

from collections import OrderedDict

from qlens_tui.engine import messages as m

KEPT = (m.OfFeature, m.Search, m.ReadPrompt, m.ReadSample, m.FindResembling, m.Steer)
"""The requests whose answers are kept."""
_MOST = 1024


class KeptAnswers:
    """What was answered, in whole or so far: a result over part of the reference comes first."""

    def __init__(self) -> None:
        self._answers: OrderedDict[m.Request, tuple[object, bool]] = OrderedDict()

    def keep(self, question: m.Request, found: object, *, is_whole: bool = True) -> None:
        """Keep an answer in place of an earlier one, unless that was over more tokens."""
        before = self.get(question)
        if not is_whole and (self.is_whole(question) or _tokens(before) > _tokens(found)):
            return
        self._answers.pop(question, None)
        self._answers[question] = found, is_whole
        while len(self._answers) > _MOST:
            self._answers.popitem(last=False)

    def get(self, question: m.Request | None) -> object:
        """The answer, as far as it is there."""
        found = None if question is None else self._answers.get(question)
        return None if found is None else found[0]

    def is_whole(self, question: m.Request) -> bool:
        """Whether a request was answered, and nothing more is to come."""
        return question in self._answers and self._answers[question][1]

    def drop(self, question: m.Request) -> None:
        """Forget the answer to a request."""
        self._answers.pop(question, None)

    def keep_text(self, layer: int, text: str) -> None:
        """Forget evidence about a layer that is from another text than this."""
        for question, (found, _) in list(self._answers.items()):
            if isinstance(found, m.Evidence) and found.layer == layer and found.text.sha256 != text:
                self.drop(question)

    def clear(self) -> None:
        """Forget all of them."""
        self._answers.clear()


def _tokens(found: object) -> int:
    """Over how many tokens a result is that comes in stages, or twice that."""
    if isinstance(found, m.Evidence):
        return 2 * found.n_tokens + found.is_whole
    return found.n_tokens if isinstance(found, m.Signature | m.Paths | m.PairCosines) else 0


def brought_by(event: m.Event) -> tuple[object, bool]:
    """The answer that an event brings, and whether it is over all tokens; else `None`."""
    match event:
        case (
            m.SignatureReady(signature=found, is_last=is_whole)
            | m.PathsReady(paths=found, is_last=is_whole)
            | m.EvidenceReady(evidence=found, is_last=is_whole)
            | m.CosinesReady(cosines=found, is_last=is_whole)
        ):
            return found, is_whole
        case (
            m.ComparisonReady(comparison=found)
            | m.SampleReady(sample=found)
            | m.SearchReady(found=found)
            | m.ResemblingReady(found=found)
            | m.SteeredReady(found=found)
            | m.PromptReady(prompt=found)
            | m.BlockTokensReady(tokens=found)
        ):
            return found, True
    return None, True


def has_more(event: m.Event, question: m.Request) -> bool:
    """Whether other events about the same request follow this one."""
    match event:
        case m.SignatureReady() | m.PathsReady() | m.EvidenceReady() | m.CosinesReady():
            is_ahead = isinstance(question, m.ComputePaths) and question.ahead
            return not event.is_last and not is_ahead
        case m.LayerReady():
            return not isinstance(question, m.DescribeLayer)
    return False
