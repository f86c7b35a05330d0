"""What cannot be answered: one line on stderr that says what to do, and the exit code."""

import socket
from typing import Any

import pytest
from chat_process import Run, run_process, told
from chat_script import Script, error_body
from chat_server import FakeServer


def closed_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def test_no_server_exits_75_and_says_how_to_start_one() -> None:
    url = f"http://127.0.0.1:{closed_port()}/v1"
    outcome = run_process(url, "Hello")
    assert (outcome.code, outcome.out) == (75, "")
    assert outcome.err == (
        f"error: No server answers at {url}. Start one with `make demo KEEP=1` or `hone-server`, "
        "or name another with --base-url.\n"
    )


def test_a_server_that_cannot_be_understood_exits_75_with_why(run: Run, server: FakeServer) -> None:
    url = server.url.replace("http:", "https:")
    assert f"No server answers at {url} ([SSL" in told(run("Hello", HONE_URL=url), 75)


def test_a_server_that_is_not_ready_exits_75_with_its_reason(run: Run, script: Script) -> None:
    script.failure = (503, error_body("the parity gate is running", 503))
    for arguments in (["Hello"], ["Hello", "--model", "hone-faq"]):
        err = told(run(*arguments), 75)
        assert "is not ready: the parity gate is running. Try again later." in err


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (500, error_body("Internal server error", 500), "failed (500): Internal server error."),
        (429, {"detail": "too many"}, "failed (429): too many."),
        (502, "<html>\n<b>Bad Gateway</b></html>", "<html> <b>Bad Gateway</b></html>."),
    ],
)
def test_a_failing_server_exits_75(
    status: int,
    body: Any,
    reason: str,
    run: Run,
    script: Script,
) -> None:
    script.failure = (status, body)
    assert reason in told(run("Hello"), 75)


def test_an_unknown_model_exits_78_and_names_those_there_are(run: Run, script: Script) -> None:
    script.models = ["hone-faq", "base\x1b[2J"]
    err = told(run("Hello", "--model", "hone-fax"), 78)
    assert "There is no model 'hone-fax' at http" in err
    assert "there is: hone-faq, base[2J. Name one" in err


def test_a_server_without_models_exits_75(run: Run, script: Script) -> None:
    script.models = []
    assert "has no model yet. Try again" in told(run("Hello"), 75)


def test_an_address_without_v1_exits_78_with_the_right_one(run: Run, server: FakeServer) -> None:
    url = server.url.removesuffix("/v1")
    for arguments in (["Hello"], ["Hello", "--model", "hone-faq"]):
        assert f"Try --base-url {url}/v1." in told(run(*arguments, HONE_URL=url), 78)


@pytest.mark.parametrize("arguments", [["Hello"], ["Hello", "--model", "hone-faq"]])
def test_a_web_page_for_an_answer_exits_78(arguments: list[str], run: Run, script: Script) -> None:
    script.failure = (200, "<html>Welcome</html>")
    assert "does not answer as an OpenAI-compatible server does" in told(run(*arguments), 78)


def test_a_refused_question_exits_65_with_the_reason(run: Run, script: Script) -> None:
    reason = "This model's maximum context length is 2048 tokens."
    script.failure = (400, error_body(reason, 400))
    err = told(run("Hello", "--model", "hone-faq"), 65)
    assert f"refused the question (400): {reason} Change the question" in err


@pytest.mark.parametrize("how", ["breaks_off", "no finish_reason"])
def test_a_connection_lost_in_the_middle_exits_75(how: str, run: Run, script: Script) -> None:
    if how == "breaks_off":
        script.breaks_off = True
    else:
        script.finish_reason = None
    outcome = run("Hello")
    assert "was lost before the answer was complete. Ask again." in told(outcome, 75)
    assert outcome.out == "Paris.\n"


@pytest.mark.parametrize(("status", "code"), [(500, 75), (400, 65)])
def test_a_failure_told_in_the_stream(status: int, code: int, run: Run, script: Script) -> None:
    script.stream_failure = error_body("engine died\x1b[2J", status)["error"]
    err = told(run("Hello"), code)
    assert "engine died[2J" in err


def test_a_silent_server_exits_75_after_the_timeout(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        assert "was silent for 0.2 s." in told(run("Hello", "--timeout", "0.2", HONE_URL=url), 75)


def test_a_proxy_is_not_asked_for_this_machines_servers(run: Run) -> None:
    proxy = f"http://127.0.0.1:{closed_port()}"
    assert run("Hello", HTTP_PROXY=proxy, http_proxy=proxy).out == "Paris.\n"
