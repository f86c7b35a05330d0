"""The socket that clients come by, also while the program behind it is replaced."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hone_contract.errors import BadConfiguration
from hone_server import listening as listening_module
from hone_server.listening import listen, start_anew

_ANEW = """
import sys
from hone_server.listening import listen, start_anew

listening = listen("127.0.0.1", 0)
print(listening.getsockname()[1], flush=True)
sys.stdin.readline()
start_anew(listening)
"""


@pytest.fixture(autouse=True)
def nothing_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HONE_LISTENING", raising=False)


def test_a_free_port_is_taken_and_told() -> None:
    with listen("127.0.0.1", 0) as listening:
        host, port = listening.getsockname()
        assert host == "127.0.0.1"
        with socket.create_connection((host, port), timeout=5):
            connection, _ = listening.accept()
            connection.close()


def test_a_taken_port_is_bad_configuration() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BadConfiguration, match=f"{port}.*--port"):
            listen("127.0.0.1", port)


def test_an_address_of_another_machine_is_bad_configuration() -> None:
    with pytest.raises(BadConfiguration, match=r"192\.0\.2\.1"):
        listen("192.0.2.1", 0)


def test_the_socket_that_the_program_before_left_is_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    left = socket.create_server(("127.0.0.1", 0))
    address = left.getsockname()
    monkeypatch.setenv("HONE_LISTENING", str(left.detach()))
    with listen("192.0.2.1", 1) as listening:
        assert listening.getsockname() == address
        assert "HONE_LISTENING" not in os.environ
        with socket.create_connection(address, timeout=5):
            connection, _ = listening.accept()
            connection.close()


def test_children_of_the_program_before_are_reaped(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        # It has ended, and nobody has taken notice.
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        left = socket.create_server(("127.0.0.1", 0))
        monkeypatch.setenv("HONE_LISTENING", str(left.detach()))
        listen("127.0.0.1", 0).close()
        with pytest.raises(ChildProcessError):
            os.waitpid(child.pid, os.WNOHANG)


def test_the_same_command_begins_again_and_is_told_of_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[tuple[str, list[str], dict[str, str]]] = []
    monkeypatch.setattr(listening_module.os, "execve", lambda *arguments: begun.append(arguments))
    monkeypatch.setattr(sys, "argv", ["hone-server", "--model", "a b", "--", "--max-model-len", "512"])
    monkeypatch.setenv("HONE_API_KEY", "secret")
    with listen("127.0.0.1", 0) as listening:
        assert not listening.get_inheritable()
        start_anew(listening)
        assert listening.get_inheritable()
        [(program, command, environment)] = begun
        assert program == sys.executable
        assert command == [program, "-m", "hone_server", *sys.argv[1:]]
        assert environment == os.environ | {"HONE_LISTENING": str(listening.fileno())}
    assert "HONE_LISTENING" not in os.environ


def test_who_waits_at_the_socket_is_answered_by_the_program_that_comes_after(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _ANEW, "--store", str(tmp_path), "--port", "1"]
    environment = os.environ | {"HONE_STATE": str(tmp_path / "state"), "HONE_API_KEY": "secret"}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            port = int(server.stdout.readline())
            with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
                client.sendall(b"GET /ready HTTP/1.0\r\n\r\n")
                server.stdin.write(b"\n")
                server.stdin.flush()
                answer = client.makefile("rb").read()
        finally:
            server.kill()
    assert answer.startswith(b"HTTP/1.0 503")
    assert b'"ready": false' in answer
