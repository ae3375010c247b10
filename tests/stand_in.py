"""`stand_in.py SOCKET PROGRAM ARGUMENTS...` stands in for a process that `prepared.py` forks.

It hands over its standard streams, directory and environment, passes signals on, and ends as the
forked process ends. If it is killed, the server kills that process.
"""

import json
import os
import signal
import socket
import struct
import sys

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
with socket.socket(socket.AF_UNIX) as server:
    server.connect(sys.argv[1])
    job = {
        "program": sys.argv[2],
        "arguments": sys.argv[3:],
        "directory": os.getcwd(),
        "environment": dict(os.environ),
    }
    content = json.dumps(job).encode()
    socket.send_fds(server, [struct.pack("!q", len(content))], [0, 1, 2])
    server.sendall(content)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    (process,) = struct.unpack("!q", server.recv(8, socket.MSG_WAITALL))
    for number in PASSED_ON:
        signal.signal(number, lambda number, _frame: os.kill(process, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    (status,) = struct.unpack("!q", server.recv(8, socket.MSG_WAITALL))
if status < 0:
    signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
os._exit(status)
