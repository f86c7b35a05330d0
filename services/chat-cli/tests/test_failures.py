"""What cannot be answered: one line on stderr that says what to do, and the exit code."""

import socket
from pathlib import Path
from typing import Any

import pytest
from chat_rig import FakeServer, Outcome, Run, Script, run_process


def vllm_error(message: str, code: int) -> dict[str, Any]:
    return {"error": {"message": message, "type": "Error", "param": None, "code": code}}


def told(outcome: Outcome, code: int) -> str:
    assert outcome.code == code
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    return outcome.err


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


def test_a_host_that_does_not_exist_exits_75(run: Run) -> None:
    err = told(run("Hello", HONE_URL="http://no-such-host.invalid/v1"), 75)
    assert "No server answers at http://no-such-host.invalid/v1 (" in err


def test_a_server_that_is_not_ready_exits_75_with_its_reason(run: Run, script: Script) -> None:
    script.failure = (503, vllm_error("the parity gate is running", 503))
    for arguments in (["Hello"], ["Hello", "--model", "hone-faq"]):
        err = told(run(*arguments), 75)
        assert "is not ready: the parity gate is running. Try again later." in err


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (500, vllm_error("Internal server error", 500), "failed (500): Internal server error."),
        (429, {"detail": "too many"}, "failed (429): too many."),
        (502, "<html>\n<b>Bad Gateway</b></html>", "<html> <b>Bad Gateway</b></html>."),
    ],
)
def test_a_failing_server_exits_75(status: int, body: Any, reason: str, run: Run, script: Script) -> None:
    script.failure = (status, body)
    assert reason in told(run("Hello"), 75)


def test_a_missing_key_exits_78(run: Run, script: Script) -> None:
    script.key = "sk-right"
    assert "wants a key (401) and none is set. Put it in HONE_API_KEY" in told(run("Hello"), 78)


def test_a_wrong_key_exits_78_and_is_not_shown(run: Run, script: Script) -> None:
    script.key = "sk-right"
    err = told(run("Hello", HONE_API_KEY="sk-wrong"), 78)
    assert "refused the key from HONE_API_KEY (401). Correct the key." in err
    assert "sk-wrong" not in err


def test_a_key_that_the_server_repeats_is_not_shown(run: Run, script: Script) -> None:
    script.failure = (400, vllm_error("bad call with sk-wrong", 400))
    assert "bad call with [key]." in told(run("Hello", HONE_API_KEY="sk-wrong"), 65)


def test_the_key_is_read_from_the_environment_or_a_file(run: Run, script: Script, tmp_path: Path) -> None:
    script.key = "sk-right"
    file = tmp_path / "key"
    file.write_text("sk-right\n")
    assert run("Hello", HONE_API_KEY="sk-right").out == "Paris.\n"
    assert run("Hello", HONE_API_KEY_FILE=str(file)).out == "Paris.\n"
    file.write_text("sk-wrong\n")
    assert f"the key from the file {file} (" in told(run("Hello", HONE_API_KEY_FILE=str(file)), 78)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "which cannot be read: No such file or directory."),
        (b"\n", "which is empty."),
        (b"sk-\xff", "which is not a text file."),
        (b"sk hidden", "is not one word of ASCII."),
    ],
)
def test_a_key_file_without_a_key_exits_78(
    content: bytes | None, reason: str, run: Run, script: Script, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    err = told(run("Hello", HONE_API_KEY_FILE=str(file)), 78)
    assert reason in err
    assert "hidden" not in err
    assert not script.headers


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
def test_a_web_page_in_place_of_an_answer_is_no_traceback(
    arguments: list[str], run: Run, script: Script
) -> None:
    script.failure = (200, "<html>Welcome</html>")
    assert run(*arguments).code in (75, 78)


def test_a_refused_question_exits_65_with_the_reason(run: Run, script: Script) -> None:
    reason = "This model's maximum context length is 2048 tokens."
    script.failure = (400, vllm_error(reason, 400))
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
    script.stream_failure = vllm_error("engine died\x1b[2J", status)["error"]
    err = told(run("Hello"), code)
    assert "engine died[2J" in err


def test_a_silent_server_exits_75_after_the_timeout(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        assert "was silent for 0.2 s." in told(run("Hello", "--timeout", "0.2", HONE_URL=url), 75)


def test_a_proxy_is_not_asked_for_this_machines_servers(run: Run) -> None:
    proxy = f"http://127.0.0.1:{closed_port()}"
    assert run("Hello", HTTP_PROXY=proxy, http_proxy=proxy).out == "Paris.\n"


def test_settings_meant_for_openai_are_not_sent(run: Run, script: Script) -> None:
    hidden = {"OPENAI_API_KEY": "sk-hidden", "OPENAI_ORG_ID": "org-hidden"}
    run("Hello", **hidden, OPENAI_CUSTOM_HEADERS="X-Token: hidden", OPENAI_BASE_URL="http://x/v1")
    assert len(script.headers) == 2
    assert "hidden" not in str(script.headers)
