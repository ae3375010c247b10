"""The app with made-up answers, as a process to be measured: `python -m benchmarks.stand_in`.

All of the app except the engine's process: its requests go to the real scheduler, and a thread
answers them, with the atlas's lists as the signature, after the time that one takes at GPT-2's
size. So all panes follow the cursor. At exit, the peak memory is written to the file in the last
argument.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks.workplace import CONTEXTS, VOCABULARY, atlas_piece, vocabulary
from qlens_tui.app.app import QlensApp
from qlens_tui.app.last_visit import KnownLayer, recall
from qlens_tui.engine import messages as m
from qlens_tui.engine.scheduler import Closed, Desk
from qlens_tui.table.frames import signature_of

LAYERS, LAYER, N_TOKENS = 12, 5, 32_768
LATENCY = {m.ComputeSignature: 0.035, m.ComputePaths: 0.010, m.ComputeEvidence: 0.010}
"""Seconds until a signature is answered; other requests are answered at once."""


class Answers:
    """An answer to every request about the known layer."""

    def __init__(self, config: Path, known: KnownLayer) -> None:
        self.config, self.known = config, known
        self._texts = vocabulary()
        self._rows = atlas_piece().rows(named=True)

    def to(self, request: m.Request) -> m.Event:
        match request:
            case m.Open():
                return self._ready(request.id)
            case m.DescribeLayer():
                return m.LayerReady(id=request.id, layer=m.LayerFacts(
                    layer=0, dictionary=self.known.name, sha256=self.known.sha256,
                    n_features=self.known.n_features, operators="built",
                    value_blocks=(2 * LAYER + 2, 2 * LAYERS), key_blocks=(0, 2 * LAYER + 2),
                    provenance={}, atlas=self.known.atlas,
                ))  # fmt: skip
            case m.ReadVocabulary():
                return m.VocabularyReady(id=request.id, tokens=tuple(self._texts))
            case m.ComputeSignature():
                row = self._rows[request.feature % len(self._rows)]
                found = signature_of(row, self._texts, n_tokens=N_TOKENS, operators="built")
                assert found is not None
                found = replace(found, feature=request.feature, settings=request.settings)
                return m.SignatureReady(id=request.id, signature=found)
            case m.ComputePaths():
                return self._paths(request)
            case m.ComputeEvidence():
                return self._evidence(request)
            case _:
                return m.Done(id=request.id)

    def _ready(self, id: int) -> m.Ready:
        names = (f"{kind}.{layer}" for layer in range(LAYERS) for kind in ("attn", "mlp"))
        return m.Ready(id=id, session=m.SessionFacts(
            config=str(self.config), content="0", model="made up",
            model_fingerprint="0", k=25,
            n_layers=LAYERS, d_model=768, d_vocab=VOCABULARY, device="cpu", dtype="float32",
            blocks=tuple(names), layers=(0,), dictionary_kind="sae", operators="built",
            reference=m.ReferenceFacts(1024, 32, N_TOKENS, "0" * 64, "made up", 0, 0),
            settings=m.Settings(), cache="",
        ))  # fmt: skip

    def _paths(self, request: m.ComputePaths) -> m.PathsReady:
        drawn = random.Random(request.feature)
        ids = tuple(drawn.randrange(VOCABULARY) for _ in range(5))
        first = 2 * LAYER + 2
        blocks = range(first, 2 * LAYERS) if request.side == "value" else range(first)
        rows = [m.PathShare("direct", drawn.uniform(0, 0.5), True, ids, self._named(ids))]
        for k in blocks:
            name = f"{'mlp' if k % 2 else 'attn'}.{k // 2}"
            rows.append(m.PathShare(name, drawn.uniform(-0.1, 0.2), True, ids, self._named(ids)))
        return m.PathsReady(id=request.id, paths=m.Paths(
            layer=0, feature=request.feature, side=request.side,
            settings=request.settings, method="operator", n_tokens=N_TOKENS,
            split="first-reader", rows=tuple(rows),
        ))  # fmt: skip

    def _evidence(self, request: m.ComputeEvidence) -> m.EvidenceReady:
        drawn = random.Random(request.feature)

        def some(n: int) -> tuple[int, ...]:
            return tuple(drawn.randrange(VOCABULARY) for _ in range(n))

        def near() -> tuple[m.Neighbour, ...]:
            others = (drawn.randrange(self.known.n_features) for _ in range(10))
            return tuple(m.Neighbour(0, other, drawn.random()) for other in others)

        contexts = []
        for _ in range(4 * CONTEXTS):
            before, (token,), after = (self._named(some(n)) for n in (20, 1, 16))
            place = drawn.randrange(1024), drawn.randrange(32), drawn.random()
            around = tuple(max(0.0, drawn.uniform(-12, 1)) for _ in range(37))
            contexts.append(m.Context(*place, *some(1), before, token, after, around))
        text = m.TextFacts(True, "made up", N_TOKENS // 32, 32, N_TOKENS, "0" * 64)
        return m.EvidenceReady(id=request.id, evidence=m.Evidence(
            layer=0, feature=request.feature, text=text, density=drawn.random() / 100,
            max_activation=1.0, contexts=tuple(contexts[:12]),
            quarters=tuple(tuple(contexts[at : at + 2]) for at in range(12, 20, 2)),
            histogram=some(12), bin_width=0.0625, by_key=near(), by_value=near(),
        ))  # fmt: skip

    def _named(self, ids: tuple[int, ...]) -> tuple[str, ...]:
        return tuple(self._texts[token] for token in ids)


class MadeUp:
    """The stand-in for the engine."""

    log = None
    pid: int | None = None

    def __init__(self, answers: Answers, on_event: Callable[[m.Event], None]) -> None:
        self._answers, self._on_event = answers, on_event
        self._desk = Desk()
        self._sent = 0

    def start(self) -> None:
        self.pid = 1
        threading.Thread(target=self._work, daemon=True).start()

    def send(self, request: m.Request) -> int:
        self._sent += 1
        for event in self._desk.put(replace(request, id=self._sent)):
            self._on_event(event)
        return self._sent

    def close(self, patience: float = 2.0) -> None:
        self._desk.close()

    def _work(self) -> None:
        try:
            while True:
                request = self._desk.take()
                time.sleep(LATENCY.get(type(request), 0))
                self._on_event(self._answers.to(request))
        except Closed:
            return


def main() -> None:
    config, report = map(Path, sys.argv[1:])
    (known,) = recall(config).known
    answers = Answers(config, known)

    class App(QlensApp):
        def make_engine(self) -> MadeUp:  # type: ignore[override]
            return MadeUp(answers, self.relay)

    app = App(config)
    try:
        app.run(mouse=False)
    finally:
        app.end()
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        report.write_text(json.dumps({"peak": peak, "torch": "torch" in sys.modules}), "utf-8")


if __name__ == "__main__":
    main()
