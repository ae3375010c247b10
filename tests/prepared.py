"""Processes that have imported the heavy libraries already, for tests of whole programs.

Importing torch, transformers and TransformerLens takes eight seconds of CPU. One process of the
test run does it (`python -m tests.prepared SOCKET`) and forks for each program. `prepared` gives
a command line for `subprocess.Popen`: a small process (`tests/stand_in.py`) that lives, takes
signals and ends as the forked one does. What that does not show is how a fresh interpreter
starts; one test of each entry point starts a real one.
"""

from __future__ import annotations

import fcntl
import gc
import json
import os
import select
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

STAND_IN = Path(__file__).with_name("stand_in.py")
KEEPS = struct.pack("!q", -1)
QUIET = {
    "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
}  # fmt: skip
"""What the libraries read at import: no network, no progress bars, no threads before a fork."""


IMPORTED = (
    "transformer_lens", "transformers.models.llama.modeling_llama", "lens_core.report",
    "lens_core.session", "qlens_tui.cli.main", "qlens_tui.engine.process",
)  # fmt: skip


def prepared(program: str, *arguments: str) -> list[str]:
    """In place of `[sys.executable, "-c", program, *arguments]`."""
    _keeper()
    return [sys.executable, "-I", "-S", str(STAND_IN), _address(), program, *arguments]


def _address() -> str:
    """The socket of this test run, the same in all its workers."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    return str(Path(tempfile.gettempdir()) / f"qlens-tests-{run[:16]}")


@cache
def _keeper() -> socket.socket:
    """A connection that keeps the server running as long as this process; starts the server."""
    address = _address()
    with open(f"{address}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        connection = socket.socket(socket.AF_UNIX)
        if connection.connect_ex(address) != 0:
            server = subprocess.Popen(
                [sys.executable, "-m", "tests.prepared", address],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=os.environ | QUIET,
                cwd=STAND_IN.parent.parent, start_new_session=True,
            )  # fmt: skip
            assert server.stdout is not None
            assert server.stdout.read() == b"ready"
            connection.connect(address)
        connection.sendall(KEEPS)
        return connection


def _serve(address: str) -> dict[str, Any] | None:
    """Fork for every job; returns the job in the forked process, `None` once no one needs it."""
    signals, wakeup = socket.socketpair()
    for end in (signals, wakeup):
        end.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakeup.fileno())
    listener = socket.socket(socket.AF_UNIX)
    with suppress(FileNotFoundError):
        os.unlink(address)
    listener.bind(address)
    listener.listen(64)
    _say_ready()
    events = selectors.DefaultSelector()
    events.register(listener, selectors.EVENT_READ)
    events.register(signals, selectors.EVENT_READ)
    keepers: set[socket.socket] = set()
    running: dict[int, socket.socket] = {}
    while True:
        for key, _ in events.select():
            if key.fileobj is signals:
                signals.recv(4096)
                _report_ends(running)
            elif key.fileobj is listener:
                connection, _ = listener.accept()
                size, streams = _begin(connection)
                if size < 0:
                    keepers.add(connection)
                    events.register(connection, selectors.EVENT_READ)
                    continue
                job = json.loads(connection.recv(size, socket.MSG_WAITALL))
                if process := os.fork():
                    running[process] = connection
                    connection.sendall(struct.pack("!q", process))
                    for stream in streams:
                        os.close(stream)
                    events.register(connection, selectors.EVENT_READ)
                    continue
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for end in (events, listener, signals, wakeup, *keepers, *running.values()):
                    end.close()
                connection.close()
                return job | {"streams": streams}
            else:  # whoever closes a connection has ended
                connection = key.fileobj
                events.unregister(connection)
                for process in [each for each, of in running.items() if of is connection]:
                    os.kill(process, signal.SIGKILL)
                if connection in keepers:
                    keepers.remove(connection)
                    if not keepers and not select.select([listener], [], [], 0)[0]:
                        for file in (address, f"{address}.lock"):
                            Path(file).unlink(missing_ok=True)
                        return None


def _say_ready() -> None:
    os.write(1, b"ready")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def _begin(connection: socket.socket) -> tuple[int, list[int]]:
    head, streams, _, _ = socket.recv_fds(connection, 8, 3)
    return struct.unpack("!q", head)[0], streams


def _report_ends(running: dict[int, socket.socket]) -> None:
    while running:
        process, status = os.waitpid(-1, os.WNOHANG)
        if not process:
            return
        connection = running.pop(process)
        with suppress(OSError):
            connection.sendall(struct.pack("!q", os.waitstatus_to_exitcode(status)))
            connection.shutdown(socket.SHUT_WR)


def _become(job: dict[str, Any]) -> None:
    """Make this process the one that the job asks for, and run its program."""
    os.setsid()
    for number, stream in enumerate(job["streams"]):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(job["environment"])
    os.chdir(job["directory"])
    sys.argv = ["-c", *job["arguments"]]
    names: dict[str, object] = {"__name__": "__main__"}
    exec(compile(job["program"], "<string>", "exec"), names)


if __name__ == "__main__":
    import torch

    for heavy in IMPORTED:
        import_module(heavy)
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()
    if (found := _serve(sys.argv[1])) is not None:
        _become(found)
