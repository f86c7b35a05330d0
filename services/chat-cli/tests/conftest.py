import signal
import sys
from collections.abc import Iterator
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from chat_process import Outcome, Run, Terminal, environment
from chat_script import Script
from chat_server import FakeServer, serving

from hone_chat.__main__ import main


@pytest.fixture(scope="session")
def server() -> Iterator[FakeServer]:
    with serving() as fake:
        yield fake


@pytest.fixture(autouse=True)
def script(server: FakeServer) -> Iterator[Script]:
    server.script = Script()
    yield server.script
    server.script.hung_up.set()


@pytest.fixture
def run(
    server: FakeServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """The command's main in this process: what it does, without the SDK's import each time."""

    def run_here(*arguments: str, stdin: bytes = b"", **more: str) -> Outcome:
        with monkeypatch.context() as patch:
            patch.setattr("os.environ", environment(server.url, **more))
            patch.setattr("sys.stdin", TextIOWrapper(BytesIO(stdin), "utf-8"))
            code = main(arguments)
        return Outcome(code, *capsys.readouterr())

    return run_here


@pytest.fixture(scope="session")
def _plain(server: FakeServer) -> Iterator[Terminal]:
    with Terminal(server.url, "--plain") as terminal:
        yield terminal


@pytest.fixture(scope="session")
def _drawn(server: FakeServer) -> Iterator[Terminal]:
    with Terminal(server.url, LINES="10", COLUMNS="60") as terminal:
        yield terminal


@pytest.fixture(scope="session")
def _wide(server: FakeServer) -> Iterator[Terminal]:
    with Terminal(server.url, columns=120) as terminal:
        yield terminal


@pytest.fixture
def plain(_plain: Terminal) -> Terminal:
    """A conversation without history, shown as it is."""
    return _as_new(_plain)


@pytest.fixture
def drawn(_drawn: Terminal) -> Terminal:
    """A conversation without history, drawn as markdown on a small screen."""
    return _as_new(_drawn)


@pytest.fixture
def wide(_wide: Terminal) -> Terminal:
    """A conversation without history, drawn on a screen with room for two columns."""
    return _as_new(_wide)


@pytest.fixture(params=["plain", "drawn"])
def terminal(request: pytest.FixtureRequest) -> Terminal:
    """A conversation, shown in each of the two ways."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Terminal)
    return found


def _as_new(terminal: Terminal) -> Terminal:
    for command in ("/reset", "/compare off", "/params server"):
        terminal.ask(command)
    return terminal


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_arrives() -> None:
    """Also in the background of a shell, which has SIGINT ignored, as has every child then."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
