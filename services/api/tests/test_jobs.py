"""Fine-tuning jobs through the unmodified SDK, which here refuses whatever its types do not allow."""

import asyncio
import time
from collections.abc import Iterator

import httpx
import openai
import pytest
import yaml
from api_process import Api, examples, messages, reaches, running_api, upload, wait_for
from openai import OpenAI

# Each begins an api and its stages.
pytestmark = pytest.mark.chain


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, database_url: str) -> Iterator[Api]:
    with running_api(tmp_path_factory.mktemp("api"), database_url) as running:
        yield running


@pytest.fixture(scope="module")
def client(api: Api) -> OpenAI:
    return api.client()


@pytest.fixture(scope="module")
def file_id(client: OpenAI) -> str:
    return upload(client, examples())


def test_a_job_comes_to_a_model(client: OpenAI, file_id: str) -> None:
    made = client.fine_tuning.jobs.create(
        model="stand-in",
        training_file=file_id,
        validation_file=upload(client, examples("judge")),
        suffix="my-bot",
        seed=7,
        metadata={"team": "red"},
    )
    assert (made.status, made.object, made.error) == ("validating_files", "fine_tuning.job", None)
    assert made.hyperparameters.n_epochs == "auto"
    done = reaches(client, made.id, "succeeded", "failed")
    assert done.status == "succeeded", messages(client, made.id)
    assert done.fine_tuned_model.startswith("ft:stand-in:hone:my-bot:")
    assert (done.seed, done.metadata, done.trained_tokens) == (7, {"team": "red"}, 60)
    # Twelve examples: as often as makes a hundred.
    assert (done.hyperparameters.n_epochs, done.hyperparameters.batch_size) == (9, 1)
    assert done.method.supervised.hyperparameters.n_epochs == 9
    assert done.finished_at >= done.created_at
    table = client.files.content(done.result_files[0]).text.splitlines()
    assert table[0].split(",")[:3] == ["step", "train_loss", "valid_loss"]
    assert [line.split(",")[0] for line in table[1:]] == ["1", "2", "3", "4", "5", "6"]


def test_events_tell_the_whole_story_in_order(client: OpenAI, file_id: str) -> None:
    job = client.fine_tuning.jobs.create(model="stand-in", training_file=file_id)
    reaches(client, job.id, "succeeded")
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=3))[::-1]
    steps = [event.data["step"] for event in events if event.type == "metrics"]
    assert steps == [1, 2, 3, 4, 5, 6]
    told = [event.message for event in events if event.type == "message"]
    assert told[0] == f"Created fine-tuning job: {job.id}"
    assert told[2:4] == ["Files validated, moving job to queued state", "Fine-tuning job started"]
    assert "The job has successfully completed" in told
    # No server is in these settings, and whoever waits for an answer is told so.
    assert "no server" in told[-1].lower()


def test_checkpoints_become_adapters_when_the_job_is_done(api: Api, client: OpenAI, file_id: str) -> None:
    job = client.fine_tuning.jobs.create(model="stand-in", training_file=file_id)
    reaches(client, job.id, "succeeded")
    for step in (2, 4):
        wait_for(
            lambda step=step: list(api.store.root.glob(f"adapters/{job.id}-step-{step}-*/manifest.json"))
        )
    wait_for(lambda: not list(api.data.glob(f"*/{job.id}")), "the end of the job's folders")


def test_checkpoints_have_names_of_their_own(client: OpenAI, file_id: str) -> None:
    job = client.fine_tuning.jobs.create(model="stand-in", training_file=file_id)
    done = reaches(client, job.id, "succeeded")
    found = list(client.fine_tuning.jobs.checkpoints.list(job.id, limit=1))
    assert [each.step_number for each in found] == [6, 4, 2]
    assert found[0].fine_tuned_model_checkpoint == f"{done.fine_tuned_model}:ckpt-step-6"
    assert found[0].metrics.step == 6 and found[0].metrics.train_loss == pytest.approx(2 / 6)


@pytest.mark.parametrize(
    ("asked", "told", "param"),
    [
        ({"model": "gpt-5"}, "not available for fine-tuning", "model"),
        ({"training_file": "file-nothing"}, "No such file", "training_file"),
        ({"validation_file": "file-nothing"}, "No such file", "validation_file"),
        ({"method": {"type": "reinforcement"}}, "reinforcement is not supported", "method.type"),
        (
            {"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 3}}}},
            "less than or equal to 2",
            "method.dpo.hyperparameters.beta",
        ),
        ({"hyperparameters": {"n_epochs": 51}}, "less than or equal to 50", "hyperparameters.n_epochs"),
        ({"suffix": "x" * 65}, "at most 64", "suffix"),
        ({"metadata": {"hone.rank": "4"}}, "there is hone.method", "metadata.hone.rank"),
        ({"metadata": {"hone.r": "0"}}, "greater than or equal to 1", "metadata.hone.r"),
        ({"metadata": {str(number): "" for number in range(17)}}, "at most 16", "metadata"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "x"}}]}, "not supported", "integrations"),
    ],
)
def test_what_is_wrong_is_refused_by_its_name(
    client: OpenAI, file_id: str, asked: dict[str, object], told: str, param: str
) -> None:
    body = {"model": "stand-in", "training_file": file_id, **asked}
    with pytest.raises(openai.BadRequestError) as refused:
        client.fine_tuning.jobs.create(**body)  # type: ignore[arg-type]
    assert told in refused.value.message
    assert refused.value.param is not None and refused.value.param.startswith(param)


def test_hyperparameters_are_taken_from_both_places(client: OpenAI, file_id: str) -> None:
    old = client.fine_tuning.jobs.create(
        model="stand-in", training_file=file_id, hyperparameters={"n_epochs": 2}
    )
    new = client.fine_tuning.jobs.create(
        model="stand-in",
        training_file=file_id,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 4}}},
    )
    assert old.hyperparameters.n_epochs == new.hyperparameters.n_epochs == 2
    assert new.hyperparameters.batch_size == 4


def test_a_file_that_is_wrong_fails_the_job_with_its_line(client: OpenAI) -> None:
    content = examples() + b'{"messages": [{"role": "nobody", "content": "?"}]}\n'
    job = client.fine_tuning.jobs.create(model="stand-in", training_file=upload(client, content))
    failed = reaches(client, job.id, "failed", "succeeded")
    assert (failed.error.code, failed.error.param) == ("invalid_training_file", "training_file")
    assert "line 13" in failed.error.message


@pytest.mark.parametrize(("code", "named"), [(65, "invalid_training_file"), (78, "invalid_configuration")])
def test_what_the_trainer_refuses_is_told(client: OpenAI, code: int, named: str) -> None:
    job = client.fine_tuning.jobs.create(
        model="stand-in", training_file=upload(client, examples(f"steps=2 end={code}"))
    )
    failed = reaches(client, job.id, "failed", "succeeded")
    assert failed.error.code == named
    assert f"told to end with {code}" in failed.error.message


def test_a_trainer_that_is_killed_goes_on_from_its_checkpoint(client: OpenAI) -> None:
    job = client.fine_tuning.jobs.create(
        model="stand-in", training_file=upload(client, examples("steps=9 die=7"))
    )
    reaches(client, job.id, "succeeded")
    events = list(client.fine_tuning.jobs.list_events(job.id))[::-1]
    assert [event.data["step"] for event in events if event.type == "metrics"] == list(range(1, 10))
    assert any("goes on from the newest checkpoint" in event.message for event in events)


def test_a_failure_that_may_pass_is_tried_so_often_and_no_more(client: OpenAI) -> None:
    job = client.fine_tuning.jobs.create(
        model="stand-in", training_file=upload(client, examples("steps=0 end=75"))
    )
    failed = reaches(client, job.id, "failed", "succeeded")
    assert failed.error.code == "server_error"
    assert sum("it goes on" in told for told in messages(client, job.id)) == 3


# -- cancel, pause, resume -------------------------------------------------------------------------


def slow_job(client: OpenAI) -> str:
    """One that runs for as long as a test wants."""
    file = upload(client, examples("steps=1000 pace=0.02 every=20"))
    job = client.fine_tuning.jobs.create(model="stand-in", training_file=file)
    reaches(client, job.id, "running")
    return job.id


def test_a_running_job_is_cancelled_at_a_checkpoint(api: Api, client: OpenAI) -> None:
    job_id = slow_job(client)
    checkpoints = client.fine_tuning.jobs.checkpoints
    first = wait_for(lambda: checkpoints.list(job_id).data)[-1]
    assert first.fine_tuned_model_checkpoint.endswith(f":{job_id[-8:]}:ckpt-step-{first.step_number}")
    assert first.metrics.train_loss == pytest.approx(2 / first.step_number)
    running = wait_for(lambda: client.fine_tuning.jobs.retrieve(job_id).estimated_finish)
    assert running > time.time()
    cancelled = client.fine_tuning.jobs.cancel(job_id)
    assert (cancelled.status, cancelled.fine_tuned_model) == ("cancelled", None)
    assert cancelled.estimated_finish is None
    assert client.fine_tuning.jobs.cancel(job_id).finished_at == cancelled.finished_at
    wait_for(lambda: not any(job_id in " ".join(each.cmdline()) for each in api.stage_processes()))
    with pytest.raises(openai.BadRequestError, match="is cancelled"):
        client.fine_tuning.jobs.resume(job_id)


def test_a_job_that_was_paused_goes_on_where_it_was(api: Api) -> None:
    # The strict client refuses the status, which OpenAI's own specification has and the SDK's types lack.
    client = OpenAI(base_url=f"{api.url}/v1", api_key=api.key)
    job_id = slow_job(client)
    with pytest.raises(openai.BadRequestError, match="is running; only a job that is paused"):
        client.fine_tuning.jobs.resume(job_id)
    assert client.fine_tuning.jobs.pause(job_id).status == "paused"
    assert client.fine_tuning.jobs.pause(job_id).status == "paused"
    assert client.fine_tuning.jobs.resume(job_id).status == "queued"
    reaches(client, job_id, "running")
    # As the SDK sends it again, which has had no answer.
    assert client.fine_tuning.jobs.resume(job_id).status == "running"
    client.fine_tuning.jobs.cancel(job_id)
    events = [
        each for each in client.fine_tuning.jobs.list_events(job_id, limit=100) if each.type == "metrics"
    ]
    steps = [event.data["step"] for event in events][::-1]
    assert steps == list(range(1, len(steps) + 1))


def test_a_finished_job_stays_as_it_is(client: OpenAI, file_id: str) -> None:
    job = client.fine_tuning.jobs.create(model="stand-in", training_file=file_id)
    reaches(client, job.id, "succeeded")
    for refused in (
        client.fine_tuning.jobs.cancel,
        client.fine_tuning.jobs.pause,
        client.fine_tuning.jobs.resume,
    ):
        with pytest.raises(openai.BadRequestError, match="is succeeded"):
            refused(job.id)


# -- lists, retries, names -------------------------------------------------------------------------


def test_jobs_are_found_by_their_metadata(client: OpenAI, file_id: str) -> None:
    made = [
        client.fine_tuning.jobs.create(model="stand-in", training_file=file_id, metadata={"shelf": shelf})
        for shelf in ("top", "top", "low")
    ]
    found = client.fine_tuning.jobs.list(extra_query={"metadata[shelf]": "top"}, limit=1)
    assert [job.id for job in found] == [made[1].id, made[0].id]
    without = client.fine_tuning.jobs.list(extra_query={"metadata": "null"})
    assert not {job.id for job in made} & {job.id for job in without}


def test_a_request_that_the_sdk_sends_again_makes_no_second_job(api: Api, file_id: str) -> None:
    body = {"model": "stand-in", "training_file": file_id, "suffix": "once"}

    def send(**headers: str) -> str:
        answer = httpx.post(
            f"{api.url}/v1/fine_tuning/jobs",
            json=body,
            headers={"Authorization": f"Bearer {api.key}", **headers},
        )
        return str(answer.json()["id"])

    first = send()
    assert send(**{"x-stainless-retry-count": "1"}) == first
    assert send(**{"x-stainless-retry-count": "0"}) != first
    named = send(**{"Idempotency-Key": "mine"})
    assert send(**{"Idempotency-Key": "mine"}) == named != first


def test_two_files_of_one_content_are_two_jobs_that_do_not_meet(client: OpenAI) -> None:
    content = examples("steps=2")
    jobs = [
        client.fine_tuning.jobs.create(model="stand-in", training_file=upload(client, content), seed=1)
        for _ in range(2)
    ]
    names = {reaches(client, job.id, "succeeded").fine_tuned_model for job in jobs}
    assert len(names) == 2


def test_the_asynchronous_client_does_the_same(api: Api, file_id: str) -> None:
    async def all_of_it() -> None:
        client = api.async_client()
        jobs = client.fine_tuning.jobs
        job = await jobs.create(model="stand-in", training_file=file_id)
        assert (await jobs.retrieve(job.id)).id == job.id
        assert job.id in [each.id async for each in jobs.list(limit=2)]
        while (await jobs.retrieve(job.id)).status != "succeeded":
            await asyncio.sleep(0.1)
        assert [each.step_number async for each in jobs.checkpoints.list(job.id)] == [6, 4, 2]
        assert len([each async for each in jobs.list_events(job.id, limit=2)]) >= 10
        with pytest.raises(openai.BadRequestError):
            await jobs.cancel(job.id)
        await client.close()

    asyncio.run(all_of_it())


def test_a_job_that_there_is_not(client: OpenAI) -> None:
    for ask in (
        client.fine_tuning.jobs.retrieve,
        client.fine_tuning.jobs.cancel,
        lambda job: list(client.fine_tuning.jobs.list_events(job)),
        lambda job: list(client.fine_tuning.jobs.checkpoints.list(job)),
    ):
        with pytest.raises(openai.NotFoundError) as missing:
            ask("ftjob-nothing")
        assert missing.value.code == "fine_tune_not_found"


def test_a_page_that_begins_nowhere_is_refused(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.fine_tuning.jobs.list(after="ftjob-nothing")


def test_settings_of_our_own_reach_the_run(api: Api, client: OpenAI, file_id: str) -> None:
    job = client.fine_tuning.jobs.create(
        model="stand-in",
        training_file=file_id,
        seed=3,
        metadata={"hone.method": "qlora", "hone.r": "4", "hone.deploy": "merged"},
        suffix="Merged Bot",
    )
    reaches(client, job.id, "succeeded")
    [file] = api.store.root.glob(f"runs/{job.id}-*/spec.yaml")
    spec = yaml.safe_load(file.read_text())
    assert (spec["method"], spec["lora"], spec["training"]["seed"]) == ("qlora", {"r": 4, "alpha": 4}, 3)
    [published] = api.store.published()
    assert published.startswith("default-merged-bot-")
