"""The socket that clients reach the server by, which outlives the process's program."""

import os
import socket
import sys
from contextlib import suppress
from typing import NoReturn

from hone_contract.errors import BadConfiguration

_INHERITED = "HONE_LISTENING"
"""Environment variable: the number of a socket that the program before this one in the process left."""


def listen(host: str, port: int) -> socket.socket:
    """Raises BadConfiguration when the address cannot be had."""
    if inherited := os.environ.pop(_INHERITED, None):
        _reap()
        return socket.socket(fileno=int(inherited))
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise BadConfiguration(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another --port"
        ) from error


def start_anew(listening: socket.socket) -> NoReturn:
    """This process begins again with the same command, and loses no connection that waits at the socket.

    vLLM keeps too much of a model in its modules to serve another one from the same program.
    """
    listening.set_inheritable(True)
    sys.stdout.flush()
    sys.stderr.flush()
    command = [sys.executable, "-m", "hone_server", *sys.argv[1:]]
    os.execve(sys.executable, command, {**os.environ, _INHERITED: str(listening.fileno())})


def _reap() -> None:
    """Children of the program before, which nobody waits for any more."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
