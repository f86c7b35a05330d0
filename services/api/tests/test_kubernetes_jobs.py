"""Fine-tuning jobs whose stages are Jobs of a cluster: the loop, the launcher and a node, and an api that is
begun anew at every step."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from api_app import Api, running_api
from api_cluster import JOBS, Mock, connected, mock_cluster
from api_node import Node, node_of
from api_process import STAND_IN, examples, messages
from api_stages import until
from openai import OpenAI
from stand_ins.stage import make_base

from hone_api.jobs.reconcile import Reconciler
from hone_api.launcher.kubernetes import KubernetesLauncher
from hone_contract.store import Store

pytestmark = pytest.mark.chain

STAGE = [sys.executable, str(STAND_IN)]


@dataclass
class Tuning:
    """All of it in one process, but for the stages."""

    api: Api
    mock: Mock
    url: str
    node: Node
    client: OpenAI

    def look(self, times: int = 1) -> None:
        """Each time by an api that knows nothing but what the one before it has left."""
        for _ in range(times):
            launcher = KubernetesLauncher(
                connected(self.url), self.api.folder, self.api.services.reporter, again_seconds=0
            )
            launcher.start()
            try:
                Reconciler(self.api.services, launcher, slots=1).tick()
            finally:
                launcher.close()

    def until(self, so: Callable[[], Any]) -> Any:
        def found() -> Any:
            self.look()
            return so()

        return until(found, 60)

    def job(self, text: str, **more: Any) -> str:
        file = self.client.files.create(file=("train.jsonl", examples(text)), purpose="fine-tune")
        made = self.client.fine_tuning.jobs.create(model="stand-in", training_file=file.id, **more)
        return made.id

    def status(self, job: str) -> str:
        return str(self.client.fine_tuning.jobs.retrieve(job).status)


@pytest.fixture
def tuning(tmp_path: Path) -> Iterator[Tuning]:
    folder = tmp_path.resolve()
    make_base(Store(folder / "store"))
    settings = {
        "launcher": "kubernetes",
        "store": folder / "store",
        "models": {"stand-in": {"base": "/bases/stand-in-base"}},
        "local": {"retry_seconds": 0},
        "commands": {
            "check": [sys.executable, "-m", "hone_trainer", "check"],
            "train": [*STAGE, "train"],
            "import": [*STAGE, "import-adapter"],
            "merge": [*STAGE, "merge"],
        },
    }
    with (
        mock_cluster() as (mock, url),
        node_of(mock, folder / "node") as node,
        running_api(folder, **settings) as api,
    ):
        client = OpenAI(base_url=f"{api.url}/v1", api_key=api.key())
        yield Tuning(api, mock, url, node, client)


def test_a_job_comes_to_its_model_though_every_look_is_another_apis(tuning: Tuning) -> None:
    merged, plain = tuning.job("steps=2", metadata={"hone.deploy": "merged"}), tuning.job("steps=4")
    tuning.until(lambda: tuning.status(merged) == tuning.status(plain) == "succeeded")
    made = f"adapters/{plain}-step-2-*/manifest.json"
    tuning.until(lambda: list(tuning.api.services.settings.store.glob(made)))
    for job in (merged, plain):
        events = list(tuning.client.fine_tuning.jobs.list_events(job, limit=100))
        assert [each.message for each in events].count("Fine-tuning job started") == 1
        # That no server has the model is said at the end.
        assert all("No server" in each.message for each in events if each.level != "info")
    # Each stage was begun once.
    kinds = sorted(name.rpartition("-")[2] for name in tuning.node.begun)
    assert kinds == ["check", "check", "import", "merge", "train", "train"]
    # And nothing is left of them.
    tuning.until(lambda: not tuning.mock.every(JOBS))
    assert not list((tuning.api.folder / "stages").glob("*/*"))


def test_what_the_cluster_takes_away_is_begun_again_and_what_is_paused_goes_on(tuning: Tuning) -> None:
    job = tuning.job("steps=60 pace=0.05")
    (first,) = tuning.until(lambda: [name for name in tuning.node.begun if name.endswith("-train")])
    tuning.until(lambda: "Step 3" in str(messages(tuning.client, job)))
    # By hand, and with it its pod.
    tuning.mock._delete(first, "Background")
    second = tuning.until(lambda: [name for name in tuning.node.begun if name.endswith("-2-train")])
    assert any("its Job was deleted" in told for told in messages(tuning.client, job))
    tuning.client.fine_tuning.jobs.pause(job)
    tuning.until(lambda: second[0] not in {each["metadata"]["name"] for each in tuning.mock.every(JOBS)})
    tuning.look(2)
    assert tuning.status(job) == "paused"
    tuning.client.fine_tuning.jobs.resume(job)
    tuning.until(lambda: [name for name in tuning.node.begun if name.endswith("-3-train")])
    tuning.client.fine_tuning.jobs.cancel(job)
    tuning.until(lambda: not tuning.node.processes)
    tuning.until(lambda: not tuning.mock.every(JOBS))
    assert tuning.status(job) == "cancelled"


def test_what_a_job_waits_for_is_told_once_however_often_it_is_said(tuning: Tuning) -> None:
    for count in range(6):
        tuning.mock.refuse("create", "jobs", 403, f"exceeded quota: gpus, used: {count}")
    job = tuning.job("steps=1")
    tuning.until(lambda: tuning.status(job) == "running")
    for count in range(4):
        tuning.mock.refuse("create", "jobs", 403, f"exceeded quota: gpus, used: {count}")
    with_quota = KubernetesLauncher(
        connected(tuning.url), tuning.api.folder, tuning.api.services.reporter, again_seconds=0
    )
    with_quota.start()
    reconciler = Reconciler(tuning.api.services, with_quota, slots=1)
    until(lambda: (reconciler.tick(), tuning.status(job) == "succeeded")[1])
    with_quota.close()
    told = [each for each in messages(tuning.client, job) if "quota" in each]
    assert told == ["Waits for its quota: exceeded quota: gpus, used: 0"]
