"""compose.yaml for real: from data to a chat, locked down, and nothing left behind.

The tests run in this order: the last three stop the server, start everything again, and remove it.
"""

import json
import time

import httpx
import pytest
from compose_project import CHAT, DOWN, SERVICES, UP, Compose, docker, write_run
from openai import OpenAI
from score import Fact, correct

pytestmark = pytest.mark.containers

# Prints what a process in a container is, has, and may not do.
_PROBE = """
import json, os, pathlib
status = dict(line.split(":\\t", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines())
def refused(path):
    try:
        pathlib.Path(path, "probe").write_text("x")
    except OSError as error:
        return error.strerror
print(json.dumps({
    "user": [os.getuid(), os.getgid()],
    "capabilities": [status[name].strip() for name in ("CapPrm", "CapEff", "CapBnd")],
    "new_privileges": status["NoNewPrivs"].strip(),
    "root": [refused("/"), refused("/etc"), refused("/opt/venv")],
    "home": refused(os.environ["HOME"]), "tmp": refused("/tmp"),
}))
"""


@pytest.fixture(scope="module")
def fact(tmp_path_factory: pytest.TempPathFactory) -> Fact:
    """Something that only the tuned model knows."""
    facts = write_run(tmp_path_factory.mktemp("facts") / "data")
    return next(fact for fact in facts if fact.id == "services")


def _key(stack: Compose) -> str:
    return stack("exec", "server", "cat", "/keys/api-key")


def _address(stack: Compose) -> str:
    return f"http://{stack('port', 'server', '8000').strip()}"


def test_the_openai_sdk_gets_the_tuned_answer(stack: Compose, fact: Fact) -> None:
    client = OpenAI(base_url=f"{_address(stack)}/v1", api_key=_key(stack))
    assert [model.id for model in client.models.list()] == ["hone-faq"]
    answer = client.chat.completions.create(
        model="hone-faq",
        messages=[{"role": "user", "content": fact.questions[0]}],
        max_tokens=40,
        temperature=0,
    )
    assert correct(answer.choices[0].message.content or "", fact.key)


def test_compose_run_chat_gets_the_tuned_answer(stack: Compose, fact: Fact) -> None:
    *command, _question = CHAT
    answer = stack(*command, "--temperature", "0", "--max-tokens", "40", fact.questions[0])
    assert correct(answer, fact.key)


def test_the_gate_has_passed(stack: Compose) -> None:
    assert httpx.get(f"{_address(stack)}/ready").json()["gate"]["passed"] is True
    assert stack.container("server")["State"]["Health"]["Status"] == "healthy"


def test_without_the_key_nobody_comes_in(stack: Compose) -> None:
    assert httpx.get(f"{_address(stack)}/v1/models").status_code == 401
    assert len(_key(stack)) > 40


def test_ports_are_published_on_this_machine_only(stack: Compose) -> None:
    published = stack.container("server")["NetworkSettings"]["Ports"]
    assert [host["HostIp"] for hosts in published.values() for host in hosts] == ["127.0.0.1"]
    for service in ("key", "trainer", "merger"):
        assert not stack.container(service)["HostConfig"]["PortBindings"]


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_can_do_little(stack: Compose, service: str) -> None:
    found = json.loads(stack.python(service, _PROBE))
    assert found["user"] == [10001, 10001]
    assert {int(mask, 16) for mask in found["capabilities"]} == {0}
    assert found["new_privileges"] == "1"
    assert set(found["root"]) == {"Read-only file system"}
    assert (found["home"], found["tmp"]) == (None, None)


def test_the_server_itself_runs_like_that(stack: Compose) -> None:
    status = stack("exec", "server", "cat", "/proc/1/status")
    assert "CapEff:\t0000000000000000" in status
    assert "Uid:\t10001\t10001\t10001\t10001" in status
    assert stack.container("server")["HostConfig"]["ReadonlyRootfs"] is True


def test_the_server_cannot_change_the_store(stack: Compose) -> None:
    assert stack.run("exec", "server", "touch", "/store/x").returncode != 0


def test_docker_stop_ends_the_server_well(stack: Compose) -> None:
    start = time.monotonic()
    docker("stop", stack.container("server")["Id"])
    # Its own grace is 40 s; by then Docker would have killed it.
    assert time.monotonic() - start < 30
    assert stack.container("server")["State"]["ExitCode"] == 0


def test_a_second_up_trains_nothing_again(stack: Compose, fact: Fact) -> None:
    assert "already_trained" not in stack("logs", "trainer")
    stack(*UP, timeout=600)
    assert "already_trained" in stack("logs", "trainer")
    assert stack("logs", "trainer").count('"event":"trained"') == 1
    assert "already_merged" in stack("logs", "merger")
    assert correct(stack("run", "--rm", "chat", "--temperature", "0", fact.questions[0]), fact.key)


def test_down_leaves_nothing(stack: Compose) -> None:
    assert stack.left
    stack(*DOWN)
    assert stack.left == []
