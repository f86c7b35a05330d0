"""What is in the images, and what is not."""

import json

import pytest
from compose_project import IMAGES, TAG, Compose, docker, inspect

pytestmark = pytest.mark.containers

# Most of it is there already, from the trainer's.
_BUILD_SECONDS = 600

_NEVER = ["gcc", "cc", "make", "git", "hatchling", "curl"]
_LOOK = """
import importlib.util, json, shutil, sys
names = sys.argv[1].split(",")
print(json.dumps([name for name in names if importlib.util.find_spec(name) or shutil.which(name)]))
"""


@pytest.fixture(scope="module", autouse=True)
def every_image(compose: Compose) -> None:
    """The profile's too, which the project is not built with."""
    compose("--profile", "api", "build", "base", timeout=_BUILD_SECONDS)


def _config(image: str) -> dict[str, object]:
    config: dict[str, object] = inspect("image", "inspect", f"{image}:{TAG}")["Config"]
    return config


def _found(image: str, *names: str) -> list[str]:
    run = ("run", "--rm", "--network", "none", "--entrypoint", "python3", f"{image}:{TAG}", "-c", _LOOK)
    found: list[str] = json.loads(docker(*run, ",".join(names)))
    return found


@pytest.mark.parametrize("image", IMAGES)
def test_it_runs_as_a_user_of_its_own_by_an_exec_form_entry_point(image: str) -> None:
    config = _config(image)
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == [image]
    labels = config["Labels"]
    assert isinstance(labels, dict)
    assert labels["org.opencontainers.image.title"] == image
    assert labels["org.opencontainers.image.version"] == "0.1.0"


@pytest.mark.parametrize("image", IMAGES)
def test_help_needs_no_network_and_writes_nothing(image: str) -> None:
    options = ("--rm", "--read-only", "--network", "none", "--cap-drop", "ALL")
    assert "usage:" in docker("run", *options, f"{image}:{TAG}", "--help")


@pytest.mark.parametrize("image", IMAGES)
def test_no_tool_to_build_with_is_left_in_it(image: str) -> None:
    assert _found(image, *_NEVER) == []


@pytest.mark.parametrize("image", ["hone-trainer", "hone-merger", "hone-api"])
def test_who_does_not_serve_has_no_vllm(image: str) -> None:
    assert _found(image, "vllm", "torch", "peft") == ["torch", "peft"]


def test_the_chat_has_no_ml_library_and_is_small(base_image: str) -> None:
    assert _found("hone-chat", "torch", "transformers", "numpy", "vllm", "hone_contract") == []
    sizes = [inspect("image", "inspect", name)["Size"] for name in (f"hone-chat:{TAG}", base_image)]
    assert sizes[0] - sizes[1] < 200_000_000


def test_all_that_have_torch_share_the_layer_that_it_is_in(base_image: str) -> None:
    # After those of the base comes the user, then torch, then the packages.
    at = len(inspect("image", "inspect", base_image)["RootFS"]["Layers"]) + 1
    layers = {
        image: inspect("image", "inspect", f"{image}:{TAG}")["RootFS"]["Layers"]
        for image in IMAGES
        if image != "hone-chat"
    }
    assert len({own[at] for own in layers.values()}) == 1
    # The api runs the trainer, so it has the trainer's packages.
    assert layers["hone-api"][at + 1] == layers["hone-trainer"][at + 1]
    assert len({own[at + 1] for own in layers.values()}) == 3


def test_the_api_has_the_programs_that_it_runs() -> None:
    programs = ["hone-trainer", "hone-merger", "hone-store"]
    assert _found("hone-api", *programs, "hone-server", "hone-chat") == programs


@pytest.mark.parametrize("image", ["hone-server", "hone-api"])
def test_who_serves_says_whether_it_is_ready(image: str) -> None:
    check = _config(image)["Healthcheck"]
    assert isinstance(check, dict)
    assert check["Test"][0] == "CMD"
    assert "/ready" in check["Test"][-1]
