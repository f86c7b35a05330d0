"""The command line, before anything is asked of a server."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from chat_process import Run, run_process
from chat_script import Script
from chat_server import FakeServer

import hone_chat

NOWHERE = "http://127.0.0.1:9/v1"


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from hone_chat.__main__ import main\n"
        "try: main(['--help'])\n"
        "finally: print([name for name in ('openai', 'rich', 'prompt_toolkit') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith("usage: hone-chat")
    assert done.stdout.endswith("[]\n")


def test_help_names_every_option_but_none_for_the_key() -> None:
    shown = run_process(NOWHERE, "--help").out
    names = "base-url model system temperature top-p max-tokens repetition-penalty seed timeout"
    names += (
        " no-repeat-ngram-size preset profile config compare compare-url plain json stats no-history version"
    )
    assert all(f"--{name} " in shown for name in names.split())
    assert "--api-key" not in shown
    assert "HONE_API_KEY_FILE" in shown


def test_version_is_that_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert hone_chat.__version__ == project["version"]
    assert run_process(NOWHERE, "--version").out == f"hone-chat {project['version']}\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--temprature", "1"], "unknown option --temprature; did you mean --temperature?"),
        (["--temperature", "hot"], "a number of 0 or more, not 'hot'"),
        (["--temperature", "nan"], "a number of 0 or more, not 'nan'"),
        (["--top-p", "1.5"], "a number above 0 and up to 1, not '1.5'"),
        (["--max-tokens", "0"], "a whole number of 1 or more, not '0'"),
        (["--repetition-penalty", "0"], "a number above 0, not '0'"),
        (["--no-repeat-ngram-size", "-1"], "a whole number of 0 or more, not '-1'"),
        (["--seed", "x"], "a whole number, not 'x'"),
        (["--system", "caf\udce9"], "argument --system: is not UTF-8; set the terminal to UTF-8"),
        (["--timeout", "0"], "a number above 0, not '0'"),
        (["--mod", "x"], "unknown option --mod"),
        (["what", "is", "this"], "put the question in quotes"),
    ],
)
def test_a_bad_option_exits_78_with_one_line(
    arguments: list[str], told: str, run: Run, script: Script
) -> None:
    outcome = run(*arguments)
    assert (outcome.code, outcome.out) == (78, "")
    assert told in outcome.err
    assert outcome.err.endswith("See: hone-chat --help\n")
    assert outcome.err.count("\n") == 1
    assert not script.headers


def test_a_bad_option_exits_78_from_the_real_command() -> None:
    outcome = run_process(NOWHERE, "--no-such-option")
    assert outcome.code == 78
    assert outcome.err == "error: unknown option --no-such-option " + (
        "(put -- before a question that starts so). See: hone-chat --help\n"
    )


@pytest.mark.parametrize("arguments", [["--api-key", "sk-hidden"], ["--api-key=sk-hidden"]])
def test_a_key_as_an_option_is_refused_and_not_repeated(arguments: list[str], run: Run) -> None:
    outcome = run(*arguments, "Hello")
    assert outcome.code == 78
    assert "put the key in HONE_API_KEY" in outcome.err
    assert "sk-hidden" not in outcome.err


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:8000",
        "ftp://here/v1",
        "http://",
        "http://here:port/v1",
        "http://here:0/v1",
        "http://a b/v1",
        "http://a..b/v1",
        "http://[::1/v1",
        "http://here\x1b[2J/v1",
    ],
)
def test_an_address_that_is_none_exits_78(address: str, run: Run) -> None:
    outcome = run("--base-url", address, "Hello")
    assert outcome.code == 78
    assert "is not a server's address. Write --base-url or HONE_URL like http://" in outcome.err
    assert "\x1b" not in outcome.err


@pytest.mark.parametrize("address", ["http://me:hidden@here/v1", "http://here/v1?token=hidden"])
def test_an_address_with_a_secret_in_it_is_refused_and_not_repeated(address: str, run: Run) -> None:
    outcome = run("Hello", HONE_URL=address)
    assert outcome.code == 78
    assert "hidden" not in outcome.err


def test_the_option_wins_over_the_environment(run: Run, server: FakeServer) -> None:
    assert run("Hello", "--base-url", f"{server.url}/", HONE_URL=NOWHERE).out == "Paris.\n"


def test_every_option_reaches_the_server(run: Run, script: Script) -> None:
    script.models = ["base", "tuned"]
    options = "--model tuned --system Briefly. --temperature 0 --top-p 0.9 --max-tokens 7".split()
    run("Hello", *options, *"--repetition-penalty 1.1 --no-repeat-ngram-size 3 --seed 3407".split())
    assert script.asked == [
        {
            "model": "tuned",
            "messages": [
                {"role": "system", "content": "Briefly."},
                {"role": "user", "content": "Hello"},
            ],
            "stream": True,
            "temperature": 0.0,
            "top_p": 0.9,
            "max_tokens": 7,
            "repetition_penalty": 1.1,
            "no_repeat_ngram_size": 3,
            "seed": 3407,
            "stream_options": {"include_usage": True},
        }
    ]


def test_what_is_not_set_is_left_to_the_server(run: Run, script: Script) -> None:
    script.models = ["first", "second"]
    run("Hello")
    hello = [{"role": "user", "content": "Hello"}]
    (asked,) = script.asked
    assert asked.pop("stream_options") == {"include_usage": True}
    assert asked == {"model": "first", "messages": hello, "stream": True}
