"""The api is killed at any moment, with jobs in every state; each reaches its right end once."""

import random
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import openai
import pytest
from api_cluster import mock_cluster, write_kubeconfig
from api_node import node_of
from api_process import Api, examples, stand_in_api, upload, wait_for
from openai import OpenAI

from hone_contract.artifact import open_artifact

pytestmark = [pytest.mark.chain]

# What the first example says to the stand-in, what the client asks for, and how the job is to end.
PLANS = [
    ("steps=12 pace=0.05", None, "succeeded"),
    ("steps=20 pace=0.05 every=5", None, "succeeded"),
    ("steps=3", None, "succeeded"),
    ("steps=30 pace=0.05 die=9", None, "succeeded"),
    ("steps=6 pace=0.05 end=65", None, "failed"),
    ("steps=2 end=78", None, "failed"),
    ("steps=400 pace=0.05 every=10", "cancel", "cancelled"),
    ("steps=40 pace=0.05", "pause and resume", "succeeded"),
    ("steps=1", "merged", "succeeded"),
    ("steps=15 pace=0.05", "bad file", "failed"),
]


def loose(api: Api) -> OpenAI:
    """It tries again for as long as the api is down, and knows the status `paused`."""
    return OpenAI(base_url=f"{api.url}/v1", api_key=api.key, max_retries=60, timeout=20)


def begin(client: OpenAI, plan: tuple[str, str | None, str]) -> str:
    content = examples(plan[0]) + (b"no JSON\n" if plan[1] == "bad file" else b"")
    metadata = {"hone.deploy": "merged"} if plan[1] == "merged" else {}
    made = client.fine_tuning.jobs.create(
        model="stand-in", training_file=upload(client, content), metadata=metadata
    )
    return made.id


def ask(client: OpenAI, job_id: str, wish: str | None) -> bool:
    """Cancel, pause or resume, when the job is where that can be asked. True: nothing is left to ask."""
    jobs = client.fine_tuning.jobs
    status = jobs.retrieve(job_id).status
    if wish == "cancel" and status == "running":
        jobs.cancel(job_id)
        return True
    if wish == "pause and resume" and status == "running":
        jobs.pause(job_id)
        return False
    if wish == "pause and resume" and str(status) == "paused":
        jobs.resume(job_id)
        return True
    return wish not in ("cancel", "pause and resume")


@pytest.mark.parametrize("kills", [8, pytest.param(30, marks=pytest.mark.full)])
def test_every_job_reaches_its_end_once_however_often_the_api_is_killed(
    tmp_path: Path, database_url: str, kills: int
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance, api = random.Random(seed), stand_in_api(tmp_path, database_url)
    try:
        _drill(api, chance, kills)
    finally:
        api.clean_up()


@pytest.mark.full
def test_the_same_with_stages_in_a_cluster(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    with mock_cluster() as (mock, url), node_of(mock, tmp_path / "node"):
        api = stand_in_api(tmp_path, launcher="kubernetes", kubernetes={"slots": 2})
        api.variables["KUBECONFIG"] = str(write_kubeconfig(tmp_path / "kubeconfig", url))
        try:
            _drill(api, random.Random(seed), 8)
        finally:
            api.clean_up()


def _drill(api: Api, chance: random.Random, kills: int) -> None:
    api.start()
    client = loose(api)
    jobs = {begin(client, plan): plan for plan in PLANS}
    asked: set[str] = set()
    for _ in range(kills):
        time.sleep(chance.uniform(0, 0.7))
        for job_id, plan in jobs.items():
            with suppress(openai.BadRequestError):
                if job_id not in asked and ask(client, job_id, plan[1]):
                    asked.add(job_id)
        api.kill()
        api.start()
    for job_id, plan in jobs.items():
        wait_for(lambda job_id=job_id, plan=plan: _ends(client, job_id, plan, asked), job_id, 120)
    for job_id, plan in jobs.items():
        _is_right(api, client, job_id, plan)
    wait_for(lambda: not api.stage_processes(), "the end of every stage")
    unfinished = {job_id for job_id, plan in jobs.items() if plan[2] != "succeeded"}
    # Of the others, checkpoints become adapters for a while still.
    for job_id in unfinished:
        wait_for(lambda job_id=job_id: not list(api.data.glob(f"*/{job_id}")), "the end of its folders")
    assert {path.name[:30] for path in api.store.partials()} <= unfinished


def _ends(client: OpenAI, job_id: str, plan: tuple[str, str | None, str], asked: set[str]) -> bool:
    with suppress(openai.BadRequestError):
        if job_id not in asked and ask(client, job_id, plan[1]):
            asked.add(job_id)
    return client.fine_tuning.jobs.retrieve(job_id).status == plan[2]


def _is_right(api: Api, client: OpenAI, job_id: str, plan: tuple[str, str | None, str]) -> None:
    job = client.fine_tuning.jobs.retrieve(job_id)
    assert job.status == plan[2], (plan, job.error)
    events = list(client.fine_tuning.jobs.list_events(job_id, limit=100))[::-1]
    told = Counter(event.message for event in events if event.type == "message")
    steps = [event.data["step"] for event in events if event.type == "metrics"]
    assert steps == sorted(set(steps)), plan
    for once in ("Created fine-tuning job", "Fine-tuning job started", "The job has successfully completed"):
        assert sum(count for message, count in told.items() if message.startswith(once)) <= 1, (plan, told)
    if plan[2] == "succeeded":
        runs = list(api.store.root.glob(f"runs/{job_id}-*"))
        assert len(runs) == 1
        assert len((runs[0] / "sealed").read_text().splitlines()) == 1
        open_artifact(api.store.adapter(runs[0].name), "adapter")
        assert len(job.result_files) == 1 and job.fine_tuned_model
        models = [model.id for model in client.models.list() if model.id == job.fine_tuned_model]
        assert len(models) == 1
