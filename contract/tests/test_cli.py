"""`hone-store` as a person or a script meets it: what it prints and how it leaves."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hone_contract.artifact import Artifact, draft
from hone_contract.manifest import Kind
from hone_contract.store import Store

Seal = Callable[[Path, Kind], Artifact]

COMMAND = [sys.executable, "-m", "hone_contract"]


def _run(
    *arguments: str | Path, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name != "HONE_STORE"}
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=inherited | environment,
        timeout=60,
    )


@pytest.fixture
def store(tmp_path: Path, seal_small: Callable[[Path, Kind], Artifact]) -> Store:
    """A base, and a model of two versions of which the first is served."""
    store = Store(tmp_path / "store")
    seal_small(store.base("tiny"), "base")
    seal_small(store.model("faq", "v1"), "model")
    seal_small(store.model("faq", "v2"), "model")
    store.point_live("faq", "v1")
    return store


def _flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_ls_tells_what_there_is_what_it_is_made_from_and_what_is_live(
    store: Store, seal_small: Callable[[Path, Kind], Artifact]
) -> None:
    digest = seal_small(store.root.parent / "same", "model").manifest.digest[:12]
    base = seal_small(store.root.parent / "same-base", "base").manifest.digest[:12]
    done = _run("--store", store.root, "ls")
    assert done.stdout.splitlines() == [
        f"base       bases/tiny  {base} 0.0 MB from base tiny",
        f"model      models/faq/v1  {digest} 0.0 MB live from base tiny",
        f"model      models/faq/v2  {digest} 0.0 MB from base tiny",
    ]
    assert (done.returncode, done.stderr) == (0, "")


def test_ls_tells_what_is_unfinished_and_what_is_broken(store: Store) -> None:
    (store.base("tiny") / "model.safetensors").unlink()
    with draft(store.dataset("half"), "plan") as partial:
        done = _run("--store", store.root, "ls")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("base       bases/tiny  BROKEN: ")
    assert "model.safetensors is missing" in lines[0]
    assert lines[-1] == f"partial    datasets/{partial.name}  being written, or left by a killed writer"
    assert done.returncode == 0


def test_verify_says_ok_for_each_artifact(store: Store) -> None:
    done = _run("--store", store.root, "verify")
    assert done.stdout.splitlines() == [
        "ok      bases/tiny",
        "ok      models/faq/v1",
        "ok      models/faq/v2",
    ]
    assert (done.returncode, done.stderr) == (0, "")


def test_checkpoints_and_weights_are_listed_and_verified(tmp_path: Path, seal_small: Seal) -> None:
    store = Store(tmp_path / "store")
    steps = [store.checkpoint("faq-0123456789", step) for step in (20, 40)]
    for step in steps:
        seal_small(step, "checkpoint")
    weights = seal_small(store.weights("faq-0123456789"), "weights").manifest.digest[:12]
    _flip_a_byte(steps[1] / "model.safetensors")
    with draft(store.checkpoint("faq-0123456789", 60), "plan") as partial:
        listed = _run("--store", store.root, "ls").stdout.splitlines()
        verified = _run("--store", store.root, "verify")
    run = "runs/faq-0123456789/checkpoints"
    assert [line.split("  ")[0] for line in listed[:2]] == [
        f"checkpoint {run}/step-20",
        f"checkpoint {run}/step-40",
    ]
    assert listed[2:] == [
        f"weights    weights/faq-0123456789  {weights} 0.0 MB from base tiny",
        f"partial    {run}/{partial.name}  being written, or left by a killed writer",
    ]
    first, second, third = verified.stdout.splitlines()
    assert (first, third) == (f"ok      {run}/step-20", "ok      weights/faq-0123456789")
    assert second.startswith(f"BROKEN  {run}/step-40: ")
    assert verified.returncode == 65


def test_verify_names_the_file_of_which_one_byte_changed(store: Store) -> None:
    _flip_a_byte(store.model("faq", "v1") / "tokenizer" / "tokenizer.json")
    done = _run("--store", store.root, "verify")
    first, second, third = done.stdout.splitlines()
    assert (first, third) == ("ok      bases/tiny", "ok      models/faq/v2")
    assert second.startswith("BROKEN  models/faq/v1: ")
    assert "tokenizer/tokenizer.json has changed since it was sealed" in second
    assert done.returncode == 65
    assert done.stderr.splitlines() == [
        f"error: 1 artifact(s) in {store.root} cannot be trusted; see the lines above"
    ]


def test_verify_goes_on_after_a_manifest_that_is_no_text(store: Store) -> None:
    (store.base("tiny") / "manifest.json").write_bytes(b"\xff")
    done = _run("--store", store.root, "verify")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["BROKEN", "ok", "ok"]
    assert done.returncode == 65


def test_the_store_is_found_by_environment_or_beside_the_user(store: Store) -> None:
    named = _run("ls", HONE_STORE=str(store.root))
    beside = _run("ls", cwd=store.root.parent)
    assert named.stdout == beside.stdout
    assert len(named.stdout.splitlines()) == 3


@pytest.mark.parametrize(
    "arguments", [["--bogus", "ls"], ["ls", "--bogus"], ["remove"], [], ["--store"]], ids=" ".join
)
def test_a_wrong_option_is_told_in_one_line(arguments: list[str]) -> None:
    done = _run(*arguments)
    assert done.returncode == 78
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("hone-store")
    assert "--help" in line


def test_help_names_the_commands() -> None:
    done = _run("--help")
    assert done.returncode == 0
    assert "verify" in done.stdout and "HONE_STORE" in done.stdout


@pytest.mark.parametrize(("unbuffered", "code"), [("", 0), ("1", 128 + signal.SIGPIPE)])
def test_a_reader_that_leaves_is_told_nothing(store: Store, unbuffered: str, code: int) -> None:
    """What was done before it left is a success; what was not done is none."""
    process = subprocess.Popen(
        [*COMMAND, "--store", str(store.root), "ls"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    with process.stderr as stderr:
        assert stderr.read() == b""
    assert process.wait(timeout=60) == code


def test_nothing_heavy_is_imported(tmp_path: Path) -> None:
    """Neither by the command nor by any other module of the contract."""
    source = """
import pkgutil, runpy, sys
import hone_contract
for module in pkgutil.iter_modules(hone_contract.__path__, "hone_contract."):
    __import__(module.name)
sys.argv = ["hone-store", "ls"]
try:
    runpy.run_module("hone_contract", run_name="__main__")
except SystemExit as left:
    assert not left.code
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    imported = set(done.stdout.split())
    assert {"hone_contract", "pydantic"} <= imported
    assert not imported & {
        "torch",
        "transformers",
        "vllm",
        "peft",
        "trl",
        "datasets",
        "numpy",
        "huggingface_hub",
    }


def test_a_store_that_is_not_there_is_not_verified(tmp_path: Path) -> None:
    done = _run("--store", tmp_path / "nowhere", "verify")
    assert done.returncode == 78
    assert "no store at" in done.stderr


def test_a_live_version_that_is_gone_is_not_verified(store: Store) -> None:
    shutil.rmtree(store.model("faq", "v1"))
    done = _run("--store", store.root, "verify")
    assert done.returncode == 65
    assert "BROKEN  models/faq/live" in done.stdout
