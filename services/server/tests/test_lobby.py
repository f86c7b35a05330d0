"""The lobby answers while there is no engine, and hands the socket over without losing anyone."""

import socket
from collections.abc import Iterator
from threading import Thread

import httpx
import pytest

from hone_server.lobby import Lobby


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def lobby(listening: socket.socket) -> Iterator[Lobby]:
    lobby = Lobby(listening)
    yield lobby
    lobby.close()


def _url(listening: socket.socket, path: str) -> str:
    return f"http://127.0.0.1:{listening.getsockname()[1]}{path}"


def test_not_ready_and_why(listening: socket.socket, lobby: Lobby) -> None:
    lobby.reason = "waiting for a model"
    answer = httpx.get(_url(listening, "/ready"))
    assert answer.status_code == 503
    assert answer.json() == {"ready": False, "reason": "waiting for a model"}
    assert int(answer.headers["Retry-After"]) > 0


@pytest.mark.usefixtures("lobby")
def test_alive_though_not_ready(listening: socket.socket) -> None:
    assert httpx.get(_url(listening, "/health")).status_code == 200


def test_a_client_is_told_in_openais_words(listening: socket.socket, lobby: Lobby) -> None:
    lobby.reason = "loading"
    answer = httpx.post(_url(listening, "/v1/chat/completions"), json={"messages": []})
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "not_ready"
    assert "loading" in answer.json()["error"]["message"]


def test_a_connection_made_after_the_lobby_closed_waits_for_the_next_owner(
    listening: socket.socket,
) -> None:
    lobby = Lobby(listening)
    lobby.close()
    answers: list[bytes] = []

    def ask() -> None:
        with socket.create_connection(listening.getsockname(), timeout=5) as client:
            answers.append(client.recv(5))

    asking = Thread(target=ask)
    asking.start()
    listening.setblocking(True)
    connection, _ = listening.accept()
    connection.sendall(b"owner")
    connection.close()
    asking.join()
    assert answers == [b"owner"]
