"""What k8s/ and its pages tell the commands is what the commands know."""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from rendered import (
    CHAT,
    DEMO,
    FILES,
    GUIDE,
    KUSTOMIZATIONS,
    ROOT,
    SOURCES,
    Container,
    Object,
    chat_commands,
    containers,
    objects,
    of_kind,
    pods,
)

from hone_contract.spec_file import load_run_spec

# Commands are run for their help.
pytestmark = pytest.mark.chain

MODULES = {
    "hone-trainer": "hone_trainer",
    "hone-merger": "hone_merger",
    "hone-server": "hone_server",
    "hone-chat": "hone_chat",
    "hone-api": "hone_api",
}
TRAINING = ["k8s/train-job.yaml", "k8s/overlays/gpu/training"]
PAGES = [page for page in (GUIDE, ROOT / "README.md") if "k8s/" in page.read_text(encoding="utf-8")]


@pytest.mark.parametrize("source", SOURCES)
def test_every_option_is_one_that_the_command_has(source: str) -> None:
    for container in containers(source):
        if "command" in container.spec:
            continue
        words = _own(container.spec["args"])
        subcommand = words[:1] if container.image in ("hone-trainer", "hone-merger", "hone-api") else []
        known = _options(MODULES[container.image], *subcommand)
        used = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert used <= known, container.where


@pytest.mark.parametrize("source", ["k8s/train-job.yaml", "k8s/overlays/gpu/training", DEMO])
def test_the_merger_takes_the_run_that_the_trainer_wrote(source: str) -> None:
    handed = {each.image: _run_id_file(source, each) for each in containers(source) if _hands_over(each)}
    assert handed.keys() == {"hone-trainer", "hone-merger"}
    assert len(set(handed.values())) == 1


@pytest.mark.parametrize("source", ["k8s/overlays/gpu/training", DEMO])
def test_the_merger_job_waits_for_the_same_file(source: str) -> None:
    (wait,) = (each for each in containers(source) if each.spec["name"] == "wait")
    (merger,) = (each for each in containers(source) if each.spec["name"] == "merger")
    assert wait.spec["command"][-1] == _value(merger, "--run-id-file")
    assert wait.spec["image"] == merger.spec["image"]


@pytest.mark.parametrize("there", [True, False])
def test_waiting_ends_when_the_file_is_there(there: bool, tmp_path: Path) -> None:
    (wait,) = (each for each in containers(DEMO) if each.spec["name"] == "wait")
    file = tmp_path / "run"
    if there:
        file.touch()
    command = [sys.executable, *wait.spec["command"][1:-1], str(file)]
    if there:
        assert subprocess.run(command, timeout=10).returncode == 0
    else:
        with pytest.raises(subprocess.TimeoutExpired):
            subprocess.run(command, timeout=0.5)


@pytest.mark.parametrize("source", TRAINING)
def test_the_run_that_is_given_as_an_example_is_a_good_one(source: str, tmp_path: Path) -> None:
    _write_configuration(source, tmp_path)
    arguments = ["--store", "store", "prepare", "run.yaml", "--data", "train.jsonl"]
    command = [sys.executable, "-m", "hone_trainer", *arguments]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize("source", TRAINING)
def test_the_server_serves_the_model_that_was_trained(source: str, tmp_path: Path) -> None:
    (server,) = containers("k8s/overlays/gpu")
    _write_configuration(source, tmp_path)
    assert _value(server, "--model") == load_run_spec(tmp_path / "run.yaml").title


def test_the_demo_is_the_example_in_the_image() -> None:
    (trainer,) = (each for each in containers(DEMO) if each.image == "hone-trainer")
    folder = Path(trainer.spec["args"][1]).relative_to("/examples")
    assert (ROOT / "examples" / folder).is_file()
    assert "/examples/" in (ROOT / "services" / "trainer" / "Dockerfile").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_only_what_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for path in re.findall(r"(?<![\w./-])k8s/[\w./-]*[\w/]", text):
        assert (ROOT / path).exists(), path
    assert set(re.findall(r"kubectl [^\n]*-k ([\w./-]+)", text)) <= set(KUSTOMIZATIONS)
    assert set(re.findall(r"kubectl [^\n]*-f ([\w./-]+)", text)) <= set(FILES)
    for kind, name in re.findall(r"\b(job|deployment|service|pod|pvc)/([a-z0-9-]+)", text):
        assert (kind, name) in _names(), f"{kind}/{name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_shows_one_way_to_chat(page: Path) -> None:
    assert [command[:3] for command in chat_commands(page)] == [CHAT.split()]
    assert chat_commands(page) == chat_commands(GUIDE)


def test_every_kustomization_that_is_meant_to_be_applied_is_in_the_guide() -> None:
    applied = set(re.findall(r"kubectl apply -[kf] ([\w./-]+)", GUIDE.read_text(encoding="utf-8")))
    meant = {source for source in KUSTOMIZATIONS if source.startswith("k8s/overlays/")}
    assert applied == meant | set(FILES)


def test_the_chat_asks_the_server() -> None:
    (service,) = of_kind(DEMO, "Service")
    ((_, _, pod),) = pods(CHAT)
    address = {each["name"]: each.get("value") for each in pod["containers"][0]["env"]}["HONE_URL"]
    assert address == f"http://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}/v1"


def _own(words: list[str]) -> list[str]:
    """Without what goes to vLLM."""
    return words[: words.index("--")] if "--" in words else words


@cache
def _options(module: str, *subcommand: str) -> set[str]:
    command = [sys.executable, "-m", module, *subcommand, "--help"]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", told))


def _hands_over(container: Container) -> bool:
    return "--run-id-file" in container.spec.get("args", [])


def _value(container: Container, option: str) -> str:
    words: list[str] = container.spec["args"]
    return words[words.index(option) + 1]


def _run_id_file(source: str, container: Container) -> tuple[str, str]:
    """The volume and the path, with the run's label in place of the variable."""
    labels = [metadata.get("labels", {}) for _, metadata, pod in pods(source) if pod is container.pod]
    path = _value(container, "--run-id-file").replace("$(HONE_RUN)", labels[0].get("hone-run", ""))
    return container.mounts["/" + path.split("/")[1]], path


def _write_configuration(source: str, folder: Path) -> None:
    (configuration,) = of_kind(source, "ConfigMap")
    for name, text in configuration["data"].items():
        (folder / name).write_text(text, encoding="utf-8")


def _names() -> set[tuple[str, str]]:
    short = {"persistentvolumeclaim": "pvc"}
    every: list[Object] = [each for source in SOURCES for each in objects(source)]
    kinds = [(each["kind"].lower(), each["metadata"]["name"]) for each in every]
    return {(short.get(kind, kind), name) for kind, name in kinds}
