"""A run that two nodes train: the pods of overlays/gpu-multinode, begun on two network namespaces."""

import copy
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from nodes import Node, Pod, end, kill, name_pods, two_nodes
from rendered import of_kind
from trainer_tiny import chat_tokenizer, save_base, tiny_llama
from trainer_together import Run, apart, make_run

pytestmark = pytest.mark.chain

MULTINODE = "k8s/overlays/gpu-multinode"
# Dropout shows the state of every random generator.
SPEC = "lora: {r: 4, dropout: 0.1}\ntraining: {batch_size: 2, epochs: 9, learning_rate: 1e-2}\n"


@dataclass(frozen=True)
class Team:
    """A pod for each node, and the run that they train."""

    nodes: list[Node]
    pods: list[Pod]
    run: Run

    def start(self) -> "list[subprocess.Popen[bytes]]":
        """All of them, the first one last: pods begin in any order."""
        begun = [
            node.start(pod, self.run.folder / f"told-{pod.index}.txt")
            for node, pod in reversed(list(zip(self.nodes, self.pods, strict=True)))
        ]
        return begun[::-1]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = chat_tokenizer()
    return save_base(tmp_path_factory.mktemp("base"), tiny_llama(len(tokenizer)), tokenizer)


@pytest.fixture
def team(tmp_path: Path, base: Path) -> Iterator[Team]:
    """The Job's pods, whose volumes are folders here."""
    run = make_run(tmp_path / "run", base, SPEC)
    folders = {"/config": run.folder, "/data": run.folder / "data", "/store": run.store.root}
    folders["/data"].mkdir()
    (run.folder / "data.jsonl").rename(folders["/data"] / "train.jsonl")
    [job] = [each for each in of_kind(MULTINODE, "Job") if "train" in each["metadata"]["name"]]
    [service] = of_kind(MULTINODE, "Service")
    pods = [Pod(job, index, folders) for index in range(job["spec"]["completions"])]
    with two_nodes() as nodes:
        name_pods(nodes, pods, service)
        yield Team(nodes, pods, run)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Run:
    """The same run by two processes of one machine."""
    run = make_run(tmp_path_factory.mktemp("alone"), base, SPEC)
    code, _, err = run.start("--processes", "2").end()
    assert code == 0, err
    return run


def reaches(team: Team, begun: "list[subprocess.Popen[bytes]]", step: int) -> None:
    try:
        team.run.reaches(step, lambda: all(each.poll() is None for each in begun))
    except AssertionError:
        end(begun)
        raise AssertionError(team.run.told(0) + team.run.told(1)) from None


def is_done(team: Team, alone: Run) -> None:
    """Sealed, with the bits that one machine makes, and its id where the merger waits for it."""
    assert apart(team.run, alone) == 0
    told = team.run.store.root / "run-ids" / team.pods[0].environment["HONE_RUN"]
    assert told.read_text(encoding="utf-8").strip() == team.run.made.manifest.id
    assert team.run.status.state == "succeeded"
    assert not team.run.store.partials()


def test_two_nodes_learn_what_one_does(team: Team, alone: Run) -> None:
    codes = end(team.start())
    assert codes == [0, 0], team.run.told(0) + team.run.told(1)
    is_done(team, alone)
    assert team.run.told(0).count('"training_started"') == 1
    # Warnings of torch's own aside, the second pod has nothing to tell.
    assert "{" not in team.run.told(1)


@pytest.mark.parametrize("lost", [pytest.param(0, marks=pytest.mark.full), 1])
def test_a_node_that_is_lost_ends_the_other_and_both_go_on_when_begun_again(
    team: Team, alone: Run, lost: int
) -> None:
    begun = team.start()
    reaches(team, begun, 30)
    kill(begun[lost])
    assert begun[1 - lost].wait(timeout=60) == 75, team.run.told(1 - lost)
    assert "lost another one" in team.run.told(1 - lost)

    assert end(team.start()) == [0, 0], team.run.told(0) + team.run.told(1)
    assert '"resumed"' in team.run.told(0)
    is_done(team, alone)


@pytest.mark.full
def test_a_pod_that_is_evicted_has_all_save_a_checkpoint(team: Team, alone: Run) -> None:
    begun = team.start()
    reaches(team, begun, 30)
    begun[1].send_signal(signal.SIGTERM)
    assert end(begun) == [75, 75], team.run.told(0) + team.run.told(1)
    assert team.run.status.state == "stopped"
    assert team.run.status.step == len(team.run.steps)

    assert end(team.start()) == [0, 0], team.run.told(0) + team.run.told(1)
    is_done(team, alone)


def test_what_is_wrong_with_the_data_ends_the_job(team: Team) -> None:
    """Whatever the other pod leaves with, one has the code that podFailurePolicy looks for."""
    file = team.pods[0].folders["/data"] / "train.jsonl"
    file.write_text('{"messages": "none"}\n' * 9, encoding="utf-8")
    assert 65 in end(team.start())
    assert "train.jsonl:1" in team.run.told(0)


def test_a_cluster_that_does_not_say_who_is_first_is_told(team: Team) -> None:
    pod = replace(team.pods[0], job=_without(team.pods[0].job, "PET_MASTER_ADDR"))
    begun = team.nodes[0].start(pod, team.run.folder / "told-0.txt")
    assert end([begun]) == [78]
    assert "PET_NNODES is 2, but PET_MASTER_ADDR is missing" in team.run.told(0)


def _without(job: dict[str, object], name: str) -> dict[str, object]:
    changed = copy.deepcopy(job)
    container = changed["spec"]["template"]["spec"]["containers"][0]  # type: ignore[index]
    container["env"] = [each for each in container["env"] if each["name"] != name]
    return changed
