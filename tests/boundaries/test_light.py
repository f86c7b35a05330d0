"""What starts in a moment: the contract, and every command until it has validated what it was given."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from source import MODULES

HEAVY = ("torch", "transformers", "vllm", "peft", "trl", "datasets", "openai")
WATCH = """
import atexit, json, runpy, sys
atexit.register(lambda: print("\\n" + json.dumps([m for m in {heavy!r} if m in sys.modules])))
sys.argv = {argv!r}
runpy.run_module({module!r}, run_name="__main__")
"""


def _run(module: str, *arguments: str) -> tuple[int, str, list[str]]:
    """Exit code, what was told, and the heavy modules that were imported."""
    code = WATCH.format(heavy=HEAVY, argv=[module, *arguments], module=module)
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    *_, last = finished.stdout.splitlines()
    return finished.returncode, finished.stdout + finished.stderr, json.loads(last)


def test_the_whole_contract_loads_without_anything_heavy() -> None:
    code = "import pkgutil, importlib, hone_contract, sys\n" + (
        "for m in pkgutil.iter_modules(hone_contract.__path__):\n"
        "    if m.name != '__main__': importlib.import_module(f'hone_contract.{m.name}')\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout == "[]\n"


@pytest.mark.parametrize("module", MODULES)
def test_help_answers_before_anything_heavy_is_imported(module: str) -> None:
    code, told, imported = _run(module, "--help")
    assert code == 0
    assert "usage:" in told
    assert imported == []


@pytest.mark.parametrize("module", MODULES)
def test_a_wrong_option_is_bad_configuration(module: str) -> None:
    code, told, imported = _run(module, "--no-such-option")
    assert code == 78
    assert "--help" in told
    assert "Traceback" not in told
    assert imported == []


@pytest.mark.parametrize(
    ("spec", "data", "code", "told"),
    [
        (
            "model: {name: demo:smollm2-135m-instruct}\nlearning_rate: 1",
            "{}",
            78,
            ":2: learning_rate: unknown key",
        ),
        (
            "model: {name: demo:smollm2-135m-instruct}\ntraning: {epochs: 1}",
            "{}",
            78,
            "did you mean training?",
        ),
        (
            "model: {name: demo:smollm2-135m-instruct}\ntraining: {epochs: many}",
            "{}",
            78,
            ":2: training.epochs",
        ),
        ("model: {name: ./nowhere}", "{}", 78, "nowhere"),
        ("model: {name: demo:smollm2-135m-instruct}", "", 65, "holds no record"),
        ("model: {name: demo:smollm2-135m-instruct}", '{"messages": [}', 65, "data.jsonl:1: not JSON"),
    ],
    ids=["unknown key", "misspelt key", "wrong type", "missing base", "empty data", "broken data"],
)
def test_a_users_mistake_is_one_line_before_anything_heavy(
    tmp_path: Path, spec: str, data: str, code: int, told: str
) -> None:
    (tmp_path / "run.yaml").write_text(spec)
    (tmp_path / "data.jsonl").write_text(data)
    arguments = ("train", str(tmp_path / "run.yaml"), "--data", str(tmp_path / "data.jsonl"))
    left, output, imported = _run("hone_trainer", "--store", str(tmp_path / "store"), *arguments)
    assert left == code, output
    assert told in output
    assert "Traceback" not in output
    assert output.count("error:") == 1
    assert imported == []
