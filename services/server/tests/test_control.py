"""`hone-server swap`, `rollback` and `status`, beside a server that says what it is told to say."""

import json
import socket
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from answering import answering
from swap_samples import NAME, publish

from hone_contract.artifact import open_artifact, remove
from hone_contract.edge import run
from hone_contract.errors import ArtifactMissing, BadConfiguration, BadInput, RetryableFailure
from hone_contract.store import Store
from hone_server import control
from hone_server.control import run_command


class _Ready(BaseHTTPRequestHandler):
    server: "Server"

    def do_GET(self) -> None:
        assert self.path == "/ready"
        self.server.asked += 1
        told = self.server.told(self.server.asked)
        body = told.encode() if isinstance(told, str) else json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """No access log."""


class Server(ThreadingHTTPServer):
    """Says at `/ready` what `told` makes of how often it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Ready)
        self.asked = 0
        self.told: Callable[[int], dict[str, Any] | str] = lambda _: ready("v1")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


def ready(version: str, **changes: Any) -> dict[str, Any]:
    told = {
        "ready": True,
        "model": NAME,
        "version": version,
        "swapping": False,
        "previous": None,
        "refused": {},
    }
    return told | changes


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(control, "_POLL_SECONDS", 0.001)
    with answering(Server()) as server, httpx.Client() as client:
        # To set up TLS anew for every question takes longer than all the rest.
        monkeypatch.setattr(httpx, "get", client.get)
        yield server


@pytest.fixture
def versions(store: Store) -> Store:
    """`v1` is live, `v2` is there."""
    for version in ("v1", "v2"):
        publish(store, version)
    store.point_live(NAME, "v1")
    return store


def command(name: str, store: Store, server: Server | str, *arguments: str) -> int:
    url = server if isinstance(server, str) else server.url
    return run_command(name, ["--store", str(store.root), "--url", url, *arguments])


def _nowhere() -> str:
    """The address of nobody."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_swap_points_live_there_and_waits_until_it_is_served(versions: Store, server: Server) -> None:
    def told(asked: int) -> dict[str, Any]:
        # It is asked once before: whether it refused this very version.
        assert versions.read_live(NAME) == ("v1" if asked == 1 else "v2")
        if asked < 5:
            return ready("v1", swapping=asked > 2)
        return ready("v2", swapping=asked < 8)

    server.told = told
    assert command("swap", versions, server, "--to", "v2") == 0
    assert server.asked == 8


def test_what_another_model_serves_under_that_version_is_not_it(versions: Store, server: Server) -> None:
    server.told = lambda asked: ready("v2", model=NAME if asked > 5 else "other")
    assert command("swap", versions, server, "--to", "v2") == 0
    assert server.asked > 5


def test_a_refused_version_is_bad_input_and_says_why(versions: Store, server: Server) -> None:
    refused = _refused(versions, "wrong numbers")
    server.told = lambda asked: ready("v1", refused=refused if asked > 3 else {})
    with pytest.raises(BadInput, match=r"refused v2: wrong numbers; v1 is served on") as caught:
        command("swap", versions, server, "--to", "v2")
    assert caught.value.exit_code == 65
    assert versions.read_live(NAME) == "v2"


def _refused(store: Store, reason: str) -> dict[str, Any]:
    return {
        "v2": {"digest": open_artifact(store.model(NAME, "v2"), "model").manifest.digest, "reason": reason}
    }


def test_a_version_that_was_refused_before_is_not_made_live(versions: Store, server: Server) -> None:
    server.told = lambda _: ready("v1", refused=_refused(versions, "wrong numbers"))
    with pytest.raises(BadInput, match=r"refused v2: wrong numbers; v1 is served on"):
        command("swap", versions, server, "--to", "v2")
    assert versions.read_live(NAME) == "v1"


def test_a_refusal_of_what_it_was_before_it_was_made_anew_is_not_the_answer(
    versions: Store, server: Server
) -> None:
    old = _refused(versions, "old")
    remove(versions.model(NAME, "v2"))
    publish(versions, "v2", 7.0)
    server.told = lambda asked: ready("v1", refused=old) if asked < 5 else ready("v2")
    assert command("swap", versions, server, "--to", "v2") == 0


@pytest.mark.parametrize("told", [ready("v1"), {"ready": False, "reason": "loading"}, "no JSON"])
def test_a_server_that_does_not_get_there_in_time_may_be_asked_again(
    versions: Store, server: Server, told: dict[str, Any] | str
) -> None:
    server.told = lambda _: told
    with pytest.raises(RetryableFailure, match=r"does not serve v2 after 0\.05 s") as caught:
        command("swap", versions, server, "--to", "v2", "--wait", "0.05")
    assert caught.value.exit_code == 75
    assert server.asked > 2


def test_a_server_that_starts_anew_meanwhile_is_waited_for(versions: Store, server: Server) -> None:
    answers: list[dict[str, Any] | str] = [
        ready("v1"),
        "",
        {"ready": False, "reason": "loading"},
        ready("v2"),
    ]
    server.told = lambda asked: answers[min(asked, len(answers)) - 1]
    assert command("swap", versions, server, "--to", "v2") == 0


def test_a_version_that_is_not_there_is_not_made_live(versions: Store, server: Server) -> None:
    with pytest.raises(ArtifactMissing):
        command("swap", versions, server, "--to", "v9")
    assert versions.read_live(NAME) == "v1"
    assert server.asked == 0


def test_without_waiting_no_server_is_needed(versions: Store) -> None:
    assert command("swap", versions, _nowhere(), "--to", "v2", "--no-wait") == 0
    assert versions.read_live(NAME) == "v2"


def test_a_rollback_goes_to_the_version_that_was_served_before(versions: Store, server: Server) -> None:
    versions.point_live(NAME, "v2")
    server.told = lambda asked: ready("v2", previous="v1") if asked < 3 else ready("v1", previous="v2")
    assert command("rollback", versions, server) == 0
    assert versions.read_live(NAME) == "v1"


def test_a_rollback_without_a_server_changes_nothing(versions: Store) -> None:
    with pytest.raises(RetryableFailure, match="swap --to"):
        command("rollback", versions, _nowhere())
    assert versions.read_live(NAME) == "v1"


def test_a_rollback_by_the_server_of_another_model_changes_nothing(versions: Store, server: Server) -> None:
    server.told = lambda _: ready("v7", model="other", previous="v6")
    with pytest.raises(RetryableFailure):
        command("rollback", versions, server)
    assert versions.read_live(NAME) == "v1"


def test_a_server_that_served_nothing_before_cannot_roll_back(versions: Store, server: Server) -> None:
    with pytest.raises(BadConfiguration, match="swap --to"):
        command("rollback", versions, server)
    assert versions.read_live(NAME) == "v1"


@pytest.mark.parametrize(
    ("told", "code"),
    [
        (ready("v1"), 0),
        (ready("v2"), 75),
        (ready("v1", model="other"), 75),
        ({"ready": False, "reason": "loading"}, 75),
        (ready("v1", ready=False), 75),
    ],
    ids=["served", "another version", "another model", "loading", "not ready"],
)
def test_the_status_says_whether_what_is_live_is_served(
    versions: Store, server: Server, capsys: pytest.CaptureFixture[str], told: dict[str, Any], code: int
) -> None:
    server.told = lambda _: told
    assert command("status", versions, server) == code
    assert json.loads(capsys.readouterr().out) == {"model": NAME, "live": "v1", "server": told}


def test_the_status_of_no_server_is_that_none_answers(
    versions: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("status", versions, _nowhere()) == 75
    assert json.loads(capsys.readouterr().out)["server"] is None


def test_an_address_that_is_none_is_the_users_mistake(
    versions: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as caught:
        run(lambda: command("status", versions, "http://localhost:port"))
    assert caught.value.code in (75, 78)


def test_an_address_that_is_none_is_found_before_live_is_moved(versions: Store) -> None:
    with pytest.raises(BadConfiguration):
        command("swap", versions, "http://localhost:port", "--to", "v2")
    assert versions.read_live(NAME) == "v1"


def test_a_server_that_answers_something_else_is_no_server_of_ours(versions: Store, server: Server) -> None:
    server.told = lambda _: "[]"
    assert command("status", versions, server) == 75


def test_of_several_models_one_must_be_chosen(versions: Store, server: Server) -> None:
    versions.live("other").parent.mkdir()
    versions.live("other").write_text("v1\n")
    with pytest.raises(BadConfiguration, match=f"{NAME}, other"):
        command("status", versions, server)
    assert command("status", versions, server, "--model", NAME) == 0


def test_a_model_that_is_not_published_is_bad_configuration(versions: Store, server: Server) -> None:
    with pytest.raises(BadConfiguration, match=NAME):
        command("swap", versions, server, "--model", "unknown", "--to", "v2")


@pytest.mark.parametrize(
    ("name", "arguments"), [("swap", []), ("status", ["--to", "v2"]), ("rollback", ["--wait", "soon"])]
)
def test_a_wrong_option_is_bad_configuration(
    versions: Store, server: Server, name: str, arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        command(name, versions, server, *arguments)
    assert caught.value.code == BadConfiguration.exit_code
