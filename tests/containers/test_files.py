"""The rules for Dockerfiles and compose files that need no engine to be checked."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_project import HERE, ROOT, SERVICES, TUNING, WATCHING

DOCKERFILES = sorted(ROOT.glob("services/*/Dockerfile"))
HEAVY = [path for path in DOCKERFILES if path.parent.name != "chat-cli"]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
GPU: dict[str, Any] = yaml.safe_load((ROOT / "compose.gpu.yaml").read_text())


def _name(path: Path) -> str:
    return path.parent.name


def _version(service: str) -> str:
    text = (ROOT / "services" / service / "pyproject.toml").read_text()
    return re.search(r'^version = "(.*)"', text, re.M)[1]  # type: ignore[index]


def test_every_service_has_a_dockerfile() -> None:
    assert [_name(path) for path in DOCKERFILES] == ["api", "chat-cli", "merger", "server", "trainer"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=_name)
def test_a_dockerfile_needs_no_frontend_from_elsewhere(path: Path) -> None:
    text = path.read_text()
    assert "syntax=" not in text
    assert "<<" not in text


@pytest.mark.parametrize("path", DOCKERFILES, ids=_name)
def test_every_image_is_pinned_and_the_cpu_is_the_default(path: Path) -> None:
    text = path.read_text()
    images = re.findall(r"^ARG \w+_IMAGE=(.*)", text, re.M)
    assert images
    assert all(re.search(r":[^:]*\d", image) and "latest" not in image for image in images)
    stages = re.findall(r"^FROM \S+ AS (\S+)", text, re.M)
    assert len(stages) == len(re.findall(r"^FROM ", text, re.M))
    assert stages[-1] == "cpu"
    assert path not in HEAVY or "gpu" in stages


@pytest.mark.parametrize("path", DOCKERFILES, ids=_name)
def test_a_final_stage_is_no_root_and_starts_without_a_shell(path: Path) -> None:
    stages = re.split(r"^(?=FROM )", path.read_text(), flags=re.M)
    final = [stage for stage in stages if re.match(r"FROM \S+ AS (cpu|gpu)$", stage, re.M)]
    for stage in final:
        assert "\nUSER 10001:10001\n" in stage
        assert re.search(r'^ENTRYPOINT \["', stage, re.M)
        assert "HOME=/home/hone" in stage
        assert f"ARG VERSION={_version(_name(path))}\n" in stage
        assert set(re.findall(r"org\.opencontainers\.image\.(\w+)", stage)) == {
            "title",
            "description",
            "licenses",
            "version",
            "revision",
        }


def test_the_stage_that_installs_torch_is_word_for_word_the_same() -> None:
    stages = {
        path.read_text().partition("---- shared")[2].partition("---- end of shared")[0] for path in HEAVY
    }
    assert len(stages) == 1
    assert "torch" in stages.pop()


def test_the_build_context_holds_only_what_was_named() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert rules[0] == "*"


@pytest.mark.parametrize("service", [*SERVICES, *TUNING, *WATCHING])
def test_a_service_is_locked_down(service: str) -> None:
    settings = COMPOSE["services"][service]
    assert settings["read_only"] is True
    assert settings["cap_drop"] == ["ALL"]
    assert settings["security_opt"] == ["no-new-privileges:true"]
    assert not settings.keys() & {"privileged", "cap_add", "user", "devices", "pid", "ipc"}
    assert all("docker.sock" not in volume for volume in settings["volumes"])


def test_all_services_are_known_and_only_those_that_serve_start_again() -> None:
    assert tuple(COMPOSE["services"]) == (*SERVICES, *TUNING, *WATCHING)
    again = {name: COMPOSE["services"][name].get("restart") for name in (*SERVICES, *TUNING)}
    serving = ("server", "base-server", "api")
    assert all(again.pop(name).startswith("on-failure") for name in serving)
    assert set(again.values()) == {None}


def test_what_tunes_comes_when_asked_for() -> None:
    assert all(COMPOSE["services"][name]["profiles"] == ["api"] for name in TUNING)


def test_the_only_ports_are_bound_to_this_machine_unless_set() -> None:
    ports = {name: COMPOSE["services"][name].get("ports") for name in (*SERVICES, *TUNING)}
    assert ports.pop("server") == ["${HONE_BIND:-127.0.0.1}:${HONE_PORT:-8000}:8000"]
    assert ports.pop("api") == ["${HONE_BIND:-127.0.0.1}:${HONE_API_PORT:-8080}:8080"]
    assert set(ports.values()) == {None}


@pytest.mark.parametrize("service", WATCHING)
def test_what_watches_comes_when_asked_for_and_is_for_this_machine(service: str) -> None:
    settings = COMPOSE["services"][service]
    assert settings["profiles"] == ["observability"]
    assert re.fullmatch(r".+:v?\d+\.\d+\.\d+", settings["image"])
    assert all(port.startswith("127.0.0.1:") for port in settings["ports"])
    folders = [volume for volume in settings["volumes"] if volume.startswith("./")]
    assert folders
    for volume in folders:
        source, _, mode = volume.split(":")
        assert (ROOT / source).exists() and mode == "ro", volume


def test_no_key_is_written_in_the_files() -> None:
    for text in ((ROOT / name).read_text() for name in ("compose.yaml", "compose.gpu.yaml")):
        assert set(re.findall(r"\b\w*(?:KEY|TOKEN):\s*(\S+)", text)) <= {
            "${HONE_API_KEY:-}",
            "${HF_TOKEN:-}",
            "${HUGGINGFACE_HUB_TOKEN:-}",
        }


def test_the_gpu_file_changes_nothing_but_what_a_gpu_needs() -> None:
    for name, settings in GPU["services"].items():
        expected = {"target": "gpu"} if "build" in COMPOSE["services"][name] else None
        assert settings.get("build") == expected
        assert settings["image"] == COMPOSE["services"][name]["image"] + "-gpu"
        assert settings.keys() <= {"build", "image", "deploy", "mem_limit", "shm_size"}
    assert GPU["services"].keys() == {"trainer", "merger", "server", *TUNING}


def test_every_variable_is_in_the_example_and_in_the_docs() -> None:
    text = (ROOT / "compose.yaml").read_text() + (ROOT / "compose.gpu.yaml").read_text()
    variables = set(re.findall(r"\$\{(\w+)", text)) - {"HONE_TAG"}
    example = (ROOT / ".env.example").read_text()
    page = (ROOT / "docs" / "run-on-compose.md").read_text()
    assert {name for name in variables if name not in example} == set()
    assert {name for name in variables if f"`{name}`" not in page} == set()


def test_the_scripts_are_ready_to_run() -> None:
    for script in HERE.glob("*.sh"):
        assert script.stat().st_mode & 0o100
