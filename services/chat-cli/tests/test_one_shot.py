"""One question, one answer: typed, piped, or both."""

import signal
import subprocess
from io import BytesIO, TextIOWrapper

import pytest
from chat_process import COMMAND, SECONDS, Run, environment, run_process
from chat_script import Script
from chat_server import FakeServer

pytestmark = pytest.mark.chain


def test_prints_just_the_answer(server: FakeServer, script: Script) -> None:
    outcome = run_process(server.url, "What is the capital of France?")
    assert (outcome.code, outcome.out, outcome.err) == (0, "Paris.\n", "")
    assert script.asked[0]["messages"][0]["content"] == "What is the capital of France?"


def test_the_answer_streams_and_ctrl_c_ends_it(server: FakeServer, script: Script) -> None:
    script.never_ends = True
    command = [*COMMAND, "Count"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=environment(server.url)
    ) as process:
        assert process.stdout and process.stderr
        assert process.stdout.read(6) == b"Paris."
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 130
        assert process.stderr.read() == b""
    assert script.hung_up.wait(SECONDS)


def test_a_reader_that_leaves_is_no_failure(server: FakeServer, script: Script) -> None:
    script.pieces = ["line\n"] * 20000
    command = [*COMMAND, "Count"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=environment(server.url)
    ) as process:
        assert process.stdout and process.stderr
        assert process.stdout.readline() == b"line\n"
        process.stdout.close()
        assert process.wait(SECONDS) == 0
        assert process.stderr.read() == b""


@pytest.mark.parametrize(
    ("typed", "piped", "asked"),
    [
        ([], b"What is this?\n", "What is this?"),
        (["Summarise this"], b"a\nb\n", "Summarise this\n\na\nb"),
        (["Summarise this"], b"", "Summarise this"),
        (["--", "-1 or 1?"], b"", "-1 or 1?"),
        ([], "\ufeffÄpfel → 苹果\r\n".encode(), "Äpfel → 苹果"),
    ],
)
def test_piped_text_follows_the_question(
    typed: list[str], piped: bytes, asked: str, run: Run, script: Script
) -> None:
    outcome = run(*typed, stdin=piped)
    assert (outcome.code, outcome.out) == (0, "Paris.\n")
    assert script.asked[0]["messages"] == [{"role": "user", "content": asked}]


@pytest.mark.parametrize(
    ("typed", "piped", "told"),
    [
        ([], b" \n", "The question is empty. Ask one: hone-chat "),
        ([], b"caf\xe9", "not UTF-8: byte 0xe9 at offset 3. Convert it first"),
        (["caf\udce9"], b"", "not UTF-8. Set the terminal to UTF-8."),
    ],
)
def test_a_question_that_is_none_exits_65(
    typed: list[str], piped: bytes, told: str, run: Run, script: Script
) -> None:
    outcome = run(*typed, stdin=piped)
    assert (outcome.code, outcome.out) == (65, "")
    assert told in outcome.err
    assert not script.headers


def test_a_pipe_gets_the_answer_as_it_is(run: Run, script: Script) -> None:
    script.pieces = ["**bold** \x1b[31m", "red\r\n", "\ud83d."]
    assert run("Hello").out == "**bold** \x1b[31mred\r\n?.\n"


def test_a_character_that_the_output_lacks_is_replaced(
    run: Run, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    script.pieces = ["caf", "é"]
    output = BytesIO()
    monkeypatch.setattr("sys.stdout", TextIOWrapper(output, "ascii"))
    assert run("Hello").code == 0
    assert output.getvalue() == b"caf?\n"


def test_an_answer_that_was_cut_says_so_beside_it(run: Run, script: Script) -> None:
    script.finish_reason = "length"
    outcome = run("Hello")
    assert (outcome.code, outcome.out) == (0, "Paris.\n")
    assert "--max-tokens can set a higher one" in outcome.err


def test_an_answer_that_cannot_be_written_exits_75(server: FakeServer) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*COMMAND, "Hello"],
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(server.url),
            timeout=SECONDS,
            check=False,
        )
    assert done.returncode == 75
    assert done.stderr.startswith(b"error: The answer cannot be written: ")
    assert done.stderr.count(b"\n") == 1
