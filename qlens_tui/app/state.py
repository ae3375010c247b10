"""The app's state: feature, settings, answers received, and requests still under way.

Each answer is stored under its request, which holds everything the answer depends on: layer,
feature, side, settings. A late answer can therefore never be shown for another question, and
going back to a feature, or undoing a switch, shows its answer at once.

Panes draw the views made here and keep no data of their own. Until the requested answer arrives,
a pane keeps showing its previous numbers: unchanged for `GRACE` seconds, so that moving quickly
does not flicker, then grey.

No Textual, no engine, no torch; the time comes from the `clock` passed in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from lens_core.terms import on_path, splits
from qlens_tui.app.kept_answers import KeptAnswers, brought_by, has_more
from qlens_tui.app.one_block import heads_shown, tokens_shown
from qlens_tui.app.opened import Opened, content_of
from qlens_tui.app.standing import Numbers, Standing
from qlens_tui.app.switched import against_all_on, comparison_of
from qlens_tui.app.views import (
    SIDES,
    Feature,
    ListsView,
    PathsView,
    Shown,
    SideShares,
    TokenLook,
)
from qlens_tui.app.work import Work
from qlens_tui.engine import messages as m

CANCELLED = "cancelled: go to another feature and back to compute it"


class State:
    """Cursor, settings, answers, work under way and failures, and the panes' views of them."""

    def __init__(
        self,
        opened: Opened,
        *,
        settings: m.Settings | None = None,
        has_chosen: bool = False,
        look: TokenLook | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """Start without a feature; `has_chosen`: the user chose the settings in the last visit."""
        self.opened = opened
        self.layer: int | None = None
        """The layer whose rows are shown; `None`: all layers, or none is known yet."""
        self.feature: Feature | None = None
        self.pinned: Feature | None = None
        """The feature with which the one under the cursor is compared."""
        self.settings = settings or m.Settings()
        self.look = look or TokenLook()
        self.split: m.Split | None = None
        """What the shares of blocks are of, where that can be asked; `None`: the usual."""
        self.block: int | None = None
        """The block under the cursor in the paths; before any are there, of the last visit."""
        self.heads: int | None = None
        """The attention block whose heads are shown in the paths."""
        self.last_heads: m.Paths | None = None
        """The heads that were shown last."""
        self.work: dict[int, Work] = {}
        self._running: int | None = None
        """Every request that the engine has not finished, by its number."""
        self._has_chosen = has_chosen
        self._content: tuple[object, ...] | None = None
        self._n_layers = 0
        self._clock = clock or time.monotonic
        self._answers = KeptAnswers()
        self._problems: dict[m.Request, str] = {}
        self._from_atlas: m.Signature | None = None
        self._lists: Standing[m.Signature] = Standing(self._clock)
        self._paths: Standing[Mapping[m.Side, m.Paths]] = Standing(self._clock)
        self._evidence: Standing[m.Evidence] = Standing(self._clock)

    # What is asked about.

    def focus(self, feature: Feature | None) -> None:
        """The cursor is on this feature; `None`: there is none."""
        if feature != self.feature:
            self.feature = feature
            self._problems.clear()
        self._settle()

    def open(self, session: m.SessionFacts) -> None:
        """A session is open. A transition and switches that the user chose replace its own."""
        self.opened.session = session
        self.expect(session)

    def expect(self, session: m.SessionFacts) -> None:
        """A session is open, or is being opened and was this when its files were as they are."""
        if self._content not in (None, content_of(session)):
            self.forget_answers()
        self._content = content_of(session)
        self._n_layers = session.n_layers
        if self.pinned is not None and self.pinned[0] not in session.layers:
            self.pinned = None
        off = {each for each in self.settings.off if session.has_switch(each)}
        chosen = self.settings if self._has_chosen else session.settings
        self.settings = replace(session.settings, transition=chosen.transition, off=frozenset(off))
        self._settle()

    def carry(self, settings: m.Settings) -> None:
        """The user chose these settings."""
        self._has_chosen = True
        if settings != self.settings:
            self.settings = settings
            self._problems.clear()
        self._settle()

    @property
    def may_stand_in(self) -> bool:
        """Whether an atlas could supply the requested lists until the engine's arrive."""
        usual = self.settings == m.Settings(method=self.settings.method)
        is_there = self.answer(self.lists_asked) is not None
        return self.feature is not None and usual and self.look.end == "top" and not is_there

    def stand_in(self, signature: m.Signature) -> None:
        """Show the atlas's lists of the feature under the cursor until the engine's arrive."""
        if (signature.layer, signature.feature) == self.feature:
            self._from_atlas = signature
            self._settle()

    def keep_text(self, layer: int, text: str) -> None:
        """Contexts of a layer are looked for in this text: drop those from another."""
        self._answers.keep_text(layer, text)
        self._settle()

    def forget_answers(self) -> None:
        """Drop all answers: the same requests would now be answered differently."""
        self._answers.clear()
        self._problems.clear()
        self._from_atlas = self.last_heads = None
        self._settle()

    # The panes' requests; `None` where there is nothing to ask.

    @property
    def lists_asked(self) -> m.ComputeSignature | None:
        if self.feature is None:
            return None
        layer, feature = self.feature
        return m.ComputeSignature(layer=layer, feature=feature, settings=self.settings)

    @property
    def comparison_asked(self) -> m.ComputeComparison | None:
        """What the switches changed, once the lists are over all tokens, if it is to be shown."""
        lists = self.lists_asked
        if lists is None or not self.look.against_all_on or not self._answers.is_whole(lists):
            return None
        return comparison_of(self.opened, (lists.layer, lists.feature), lists.settings)

    def shares_asked(self, side: m.Side) -> m.ComputePaths | None:
        """The shares of one side; only switches on the side's own path are part of the request."""
        return None if self.feature is None else self.shares_of(self.feature, side)

    def shares_of(self, of: Feature, side: m.Side) -> m.ComputePaths:
        """What `shares_asked` would be with the cursor on this feature."""
        layer, feature = of
        blocks, off = self.opened.blocks(layer, side), self.settings.off
        own = off if blocks is None else on_path(off, blocks)
        settings = replace(self.settings, off=own)
        _, *others = splits(settings.transition, any_off=bool(own))
        split = self.split if self.split in others else None
        return m.ComputePaths(
            layer=layer, feature=feature, side=side, settings=settings, split=split
        )

    @property
    def evidence_asked(self) -> m.ComputeEvidence | None:
        if self.feature is None:
            return None
        return m.ComputeEvidence(layer=self.feature[0], feature=self.feature[1])

    # The outcome of a request.

    def answer(self, question: m.Request | None) -> object:
        """The answer to a request, or `None`."""
        return self._answers.get(question)

    def problem(self, question: m.Request | None) -> str:
        """Why a request failed; empty if it did not."""
        return "" if question is None else self._problems.get(question, "")

    def doing(self, question: m.Request | None, idle: str = "computing") -> str:
        """Progress towards an answer; for contexts, of the pass that serves the whole layer."""
        if self.opened.session is None:
            return f"waiting for the model: {self.opened.phase}"
        for work in self.under_way:
            match work.request, question:
                case m.ComputeEvidence() as asked, m.ComputeEvidence():
                    serves = asked.layer == question.layer
                case asked, _:
                    serves = asked == question
            if serves and work.text:
                return work.doing
        return idle

    def is_lacking(self, question: m.Request | None) -> bool:
        """Whether a request should be sent: not answered, not failed, not under way."""
        return (
            question is not None
            and not self._answers.is_whole(question)
            and question not in self._problems
            and not self.is_under_way(question)
        )

    def is_under_way(self, question: m.Request) -> bool:
        """Whether the engine is working on a request, or it is queued."""
        return any(work.request == question for work in self.under_way)

    @property
    def under_way(self) -> list[Work]:
        """Requests that are not withdrawn, oldest first."""
        return [work for work in self.work.values() if not work.is_withdrawn]

    # What the engine does.

    def asked(self, number: int, question: m.Request, name: str = "") -> None:
        """A request was sent with id `number`; with a `name` it is listed among the jobs."""
        self._problems.pop(question, None)
        self.work[number] = Work(number, question, name)

    def take(self, event: m.Event) -> Work | None:
        """Record an event; returns its request, or `None` if that is unknown or withdrawn."""
        work = self.work.get(event.id)
        if work is None:
            return None
        question = work.request
        if isinstance(event, m.Status):
            work.take(event)
            if work.name:  # what interrupts a job is soon done
                self._running = event.id
        elif has_more(event, question):
            work.rest()
        else:
            del self.work[event.id]
        match event:
            case m.Failed(text=problem) if not work.is_withdrawn:
                self._problems[question] = problem
                self._answers.drop(question)
            case m.Cancelled() if not work.is_withdrawn:
                self._problems[question] = CANCELLED
            case _:
                self.keep_answer(question, event)
        self._settle()
        return None if work.is_withdrawn else work

    def keep_answer(self, question: m.Request, event: m.Event) -> None:
        """Record the answer that an event brings, if it brings one."""
        found, is_whole = brought_by(event)
        if isinstance(found, m.Evidence):
            self._answers.keep_text(found.layer, found.text.sha256)
        if found is not None:
            self._answers.keep(question, found, is_whole=is_whole)
            self._problems.pop(question, None)

    def lost(self, problem: str) -> None:
        """The engine died. The panes' requests will be sent again; all others have failed."""
        for work in self.under_way:
            if not isinstance(work.request, m.OfFeature):
                self._problems[work.request] = problem
        self.work.clear()
        self._settle()

    def begin(self) -> None:
        """A new session starts: forget requests under way and failures."""
        self.work.clear()
        self._problems.clear()
        self._settle()

    @property
    def jobs(self) -> list[Work]:
        """Long work under way, oldest first."""
        return [work for work in self.under_way if work.name]

    @property
    def running(self) -> Work | None:
        """The job that the engine worked on last, as far as it has told; the others wait."""
        return None if self._running is None else self.work.get(self._running)

    # What panes show.

    def lists_view(self, side: m.Side) -> ListsView:
        """What one side's token pane draws."""
        self._settle()
        layer = None if self._lists.of is None else self._lists.of[0]
        blocks = None if layer is None else self.opened.blocks(layer, side)
        note = self.opened.which_key(layer) if side == "key" and layer is not None else ""
        question = self.lists_asked
        stands_in = self._answer_of_lists() is not None
        shown = self._shown(self._lists, question, stands_in)
        view = ListsView(shown, self.look, blocks, note, self.opened.n_tokens, self.opened.k)
        return replace(view, against=against_all_on(self, side, shown))

    def evidence_shown(self) -> Shown[m.Evidence]:
        """The engine's answer that the evidence pane draws."""
        self._settle()
        question = self.evidence_asked
        return self._shown(self._evidence, question, self.answer(question) is not None)

    def paths_view(self) -> PathsView:
        """What the paths pane draws."""
        self._settle()
        stand = self._paths
        sides = {side: self._side(side) for side in SIDES}
        waiting = next((each.awaits for each in sides.values() if each.awaits), "")
        problems = [each.problem for each in sides.values()]
        problem = problems[0] if all(problems) else ""
        numbers = stand.numbers or None
        late = stand.is_late and stand.of != self.feature
        return PathsView(
            Shown(self.feature, stand.of, numbers, late, waiting, problem, self._is_kept(stand.of)),
            sides,
            self._n_layers,
            self.settings.off,
            self.settings.transition,
            tokens_shown(self) if stand.of == self.feature else None,
            self.opened.n_tokens,
            self.split,
            heads_shown(self),
            self.opened.heads,
            self.block,
        )

    def grace_ends(self) -> float | None:
        """Seconds until a pane turns grey unless its answer arrives; `None`: none will."""
        graces = [stand.grace for stand in (self._lists, self._paths, self._evidence)]
        return min((grace for grace in graces if grace is not None), default=None)

    def _answer_of_lists(self) -> m.Signature | None:
        found = self.answer(self.lists_asked)
        if isinstance(found, m.Signature):
            return found
        atlas = self._from_atlas
        if atlas is None or not self.may_stand_in:
            return None
        return atlas if (atlas.layer, atlas.feature) == self.feature else None

    def _settle(self) -> None:
        """Give each pane its requested answer, or note since when it has been missing."""
        self._put(self._lists, self._answer_of_lists(), self.problem(self.lists_asked))
        evidence = self.answer(self.evidence_asked)
        found = evidence if isinstance(evidence, m.Evidence) else None
        self._put(self._evidence, found, self.problem(self.evidence_asked))
        self._put_paths()

    def _put(self, stand: Standing[Numbers], found: Numbers | None, problem: str) -> None:
        if found is not None or problem:
            stand.put(self.feature, found)
        else:
            stand.keep(is_asked=self.feature is not None)

    def _put_paths(self) -> None:
        """Show a new feature's two sides together, or one of them after the grace period."""
        stand, questions = self._paths, {side: self.shares_asked(side) for side in SIDES}
        answers = {side: self.answer(question) for side, question in questions.items()}
        there = {side: each for side, each in answers.items() if isinstance(each, m.Paths)}
        failed = [side for side in SIDES if side not in there and self.problem(questions[side])]
        is_whole = len(there) + len(failed) == len(SIDES)
        if self.feature is not None and stand.of == self.feature and stand.numbers is not None:
            stand.put(self.feature, {**stand.numbers, **there})
            if len(there) < len(stand.numbers or ()):
                stand.expire()
        elif is_whole or (there and (stand.numbers is None or stand.is_late)):
            stand.put(self.feature, there)
        else:
            stand.keep(is_asked=self.feature is not None)

    def _shown(
        self, stand: Standing[Numbers], question: m.Request | None, is_there: bool
    ) -> Shown[Numbers]:
        problem = "" if is_there else self.problem(question)
        waits = question is not None and not is_there and not problem
        awaits = self.doing(question) if waits else ""
        kept = self._is_kept(stand.of)
        return Shown(self.feature, stand.of, stand.numbers, stand.is_late, awaits, problem, kept)

    def _is_kept(self, of: Feature | None) -> bool:
        return of is not None and not self.opened.is_confirmed(of[0])

    def _side(self, side: m.Side) -> SideShares:
        stand, question = self._paths, self.shares_asked(side)
        paths = stand.numbers.get(side) if stand.numbers else None
        is_there, problem = self.answer(question) is not None, self.problem(question)
        late = not is_there if stand.of == self.feature else stand.is_late
        waits = question is not None and not is_there and not problem
        return SideShares(paths, late, self.doing(question) if waits else "", problem)
