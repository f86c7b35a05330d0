"""llama.cpp's converter is somebody else's program: what it is given, and what is taken from it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from merger_cli import run_merger
from merger_hub import TOKEN
from merger_published import published

from hone_merger.publishing.gguf import CONVERTER

# Each is a process of its own, or several.
pytestmark = pytest.mark.chain

_TARGET = "open(sys.argv[sys.argv.index('--outfile') + 1], 'w')"
LOOKS_AROUND = (
    f"import os, sys; {_TARGET}.write('GGUF' + ' '.join(os.environ) + os.environ['HF_HUB_OFFLINE'])"
)
WAITS = f"""\
import os, sys, time
{_TARGET}.write("GGUF")
open("began.part", "w").write(str(os.getpid()))
os.rename("began.part", "began")
time.sleep(60)
"""
WRITES_OTHER = f"import sys; print('done'); {_TARGET}.write('safetensors')"


@pytest.mark.usefixtures("model")
def test_it_gets_no_token_and_asks_no_hub(tmp_path: Path) -> None:
    (tmp_path / CONVERTER).write_text(LOOKS_AROUND)
    tokens = {"HF_TOKEN": TOKEN, "HUGGINGFACE_HUB_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0"}
    published(tmp_path, "sky", "--gguf", "sky.gguf", "--converter", CONVERTER, **tokens)
    saw = (tmp_path / "sky.gguf").read_text()
    assert "TOKEN" not in saw and "PATH" in saw and saw.endswith("1")


@pytest.mark.usefixtures("model")
def test_its_last_lines_are_told_when_it_fails(tmp_path: Path) -> None:
    (tmp_path / CONVERTER).write_text("for line in range(30): print('line', line)\n1 / 0\n")
    outcome = run_merger(tmp_path, "publish", "sky", "--gguf", "sky.gguf", "--converter", CONVERTER)
    assert outcome.code == 65
    *events, error = outcome.err.splitlines()
    told = [json.loads(line) for line in events]
    said = [each["message"] for each in told if each["event"] == "converter"]
    assert said[0].startswith("line 2") and said[-1] == "ZeroDivisionError: division by zero"
    assert error.endswith(": ZeroDivisionError: division by zero") and "Traceback" not in error


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize(("script", "told"), [(WRITES_OTHER, ": done\n"), ("", ": it said nothing\n")])
def test_what_it_writes_must_be_gguf(tmp_path: Path, script: str, told: str) -> None:
    (tmp_path / CONVERTER).write_text(script)
    outcome = run_merger(tmp_path, "publish", "sky", "--gguf", "sky.gguf", "--converter", CONVERTER)
    assert (outcome.code, outcome.out) == (65, "")
    assert outcome.err.endswith(told)
    assert {path.name for path in tmp_path.iterdir()} == {"store", CONVERTER}


@pytest.mark.usefixtures("model")
def test_stopped_halfway_it_leaves_nothing_and_the_converter_does_not_go_on(tmp_path: Path) -> None:
    (tmp_path / CONVERTER).write_text(WAITS)
    command = [sys.executable, "-m", "hone_merger", "publish", "sky", "--gguf", "sky.gguf"]
    with subprocess.Popen([*command, "--converter", CONVERTER], cwd=tmp_path) as process:
        while not (tmp_path / "began").exists():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 128 + signal.SIGTERM
    assert {path.name for path in tmp_path.iterdir()} == {"store", CONVERTER, "began"}
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "began").read_text()), 0)
