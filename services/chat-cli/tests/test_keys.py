"""The key: where it is found, and that nothing ever shows it."""

from pathlib import Path

import pytest
from chat_process import Run, told
from chat_script import Script, error_body


def test_a_missing_key_exits_78(run: Run, script: Script) -> None:
    script.key = "sk-right"
    assert "wants a key (401) and none is set. Put it in HONE_API_KEY" in told(run("Hello"), 78)


def test_a_wrong_key_exits_78_and_is_not_shown(run: Run, script: Script) -> None:
    script.key = "sk-right"
    err = told(run("Hello", HONE_API_KEY="sk-wrong"), 78)
    assert "refused the key from HONE_API_KEY (401). Correct the key." in err
    assert "sk-wrong" not in err


def test_a_key_that_the_server_repeats_is_not_shown(run: Run, script: Script) -> None:
    script.failure = (400, error_body("bad call with sk-wrong", 400))
    assert "bad call with [key]." in told(run("Hello", HONE_API_KEY="sk-wrong"), 65)


def test_the_key_comes_from_a_variable_or_a_file(run: Run, script: Script, tmp_path: Path) -> None:
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


def test_settings_meant_for_openai_are_not_sent(run: Run, script: Script) -> None:
    hidden = {"OPENAI_API_KEY": "sk-hidden", "OPENAI_ORG_ID": "org-hidden"}
    run("Hello", **hidden, OPENAI_CUSTOM_HEADERS="X-Token: hidden", OPENAI_BASE_URL="http://x/v1")
    assert len(script.headers) == 2
    assert "hidden" not in str(script.headers)
