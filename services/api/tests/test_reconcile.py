"""What the reconcile loop makes of what it finds, look by look."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from api_loop import Loop, emptied, new_loop
from api_stages import python
from sqlalchemy import select, update
from stand_ins.stage import BASE

from hone_api.database.session import Database
from hone_api.database.tables import File, Job, Model
from hone_api.errors import ApiError
from hone_api.jobs import progress, results, sharing, states
from hone_api.jobs.reconcile import Reconciler
from hone_api.launcher.folder import Folder
from hone_api.launcher.local import LocalLauncher
from hone_api.launcher.stages import State
from hone_api.serving import merged, presence
from hone_api.serving.merged import Known
from hone_api.settings import Settings, Upstream
from hone_api.wire.jobs import job_object
from hone_contract.events import Rewards, StepMetrics
from hone_contract.run_spec import RunSpec

NewLoop = Callable[..., Loop]


@pytest.fixture(scope="module")
def database(database_url: str) -> Iterator[Database]:
    with emptied(database_url) as database:
        yield database


@pytest.fixture
def new(tmp_path: Path, database: Database) -> NewLoop:
    return lambda **settings: new_loop(tmp_path, database, **settings)


# -- what is asked for, and what is told of it -------------------------------------------------------


def test_preference_tuning_reaches_the_run_and_its_margins_the_client(new: NewLoop) -> None:
    loop = new()
    method = {"type": "dpo", "dpo": {"hyperparameters": {"learning_rate_multiplier": 2}}}
    job_id = loop.begin(method=method)
    spec = RunSpec.model_validate(yaml.safe_load((loop.workspace(job_id) / "run.yaml").read_text()))
    assert (spec.objective, spec.dpo.beta, spec.training.learning_rate) == ("dpo", 0.1, 4e-5)
    told = job_object(loop.job(job_id), "hone")
    assert told.method["type"] == "dpo" and told.method["dpo"]["hyperparameters"]["beta"] == 0.1
    assert told.hyperparameters.keys() == {"n_epochs", "batch_size", "learning_rate_multiplier"}

    loop.write_run(job_id, [1], checkpoints=[1])
    rewards = Rewards(chosen=1.5, rejected=-0.5, margin=2, accuracy=0.75)
    line = StepMetrics(step=1, epoch=1, loss=0.2, rewards=rewards, tokens=10)
    [metrics] = loop.store.root.glob("runs/*/metrics.jsonl")
    metrics.write_text(line.model_dump_json(exclude_none=True) + "\n")
    loop.stages.end(f"{job_id}/1-train")
    loop.tick()
    [event] = [each for each in loop.events(job_id) if each.type == "metrics"]
    assert (event.data["train_reward_margin"], event.data["train_reward_accuracy"]) == (2, 0.75)
    loop.tick()
    with loop.services.database.reading() as session:
        [result] = [
            each for each in session.scalars(select(File)) if each.id in loop.job(job_id).result_files
        ]
    head, row = loop.services.storage.path(result.digest).read_text().splitlines()
    assert head.endswith("tokens,train_reward_margin,train_reward_accuracy") and row.endswith(",10,2.0,0.75")


# -- what is taken on, and what is not ---------------------------------------------------------------


def test_a_job_whose_model_is_gone_from_the_settings_fails(new: NewLoop) -> None:
    loop = new(models={"stand-in": {"base": BASE}, "gone": {"base": BASE}})
    gone, other = loop.create(model="gone"), loop.create()
    del loop.services.settings.models["gone"]
    loop.tick()
    assert loop.job(other).status == "queued"
    failed = loop.job(gone)
    assert (failed.status, failed.error["code"]) == ("failed", "model_not_available")
    assert "gone" in failed.error["message"] and "`models`" in failed.error["message"]


def test_a_store_that_is_away_for_a_while_fails_no_job(new: NewLoop) -> None:
    loop = new()
    job_id = loop.trained()
    for stage in ("train", "deploy"):
        loop.store.root.rename(away := loop.store.root.with_name("away"))
        loop.tick(2)
        assert (loop.job(job_id).status, loop.job(job_id).stage) == ("running", stage)
        away.rename(loop.store.root)
        loop.tick()
    assert loop.job(job_id).status == "succeeded"


def test_a_job_that_was_paused_while_its_model_was_deployed_needs_no_slot(new: NewLoop) -> None:
    loop = new()
    paused = loop.trained()
    loop.tick()
    assert (loop.job(paused).stage, loop.job(paused).slot) == ("deploy", None)
    change(loop, paused, states.pause)
    other = loop.begin()
    change(loop, paused, states.resume)
    loop.tick(2)
    assert (loop.job(paused).status, loop.job(paused).slot) == ("succeeded", None)
    assert (loop.job(other).status, loop.job(other).slot) == ("running", 0)


def test_a_job_that_was_paused_before_its_files_were_read_has_them_read(new: NewLoop) -> None:
    loop = new()
    job_id = loop.create()
    change(loop, job_id, states.pause)
    change(loop, job_id, states.resume)
    loop.tick()
    assert loop.job(job_id).status == "validating_files"
    # The SDK has had no answer, and asks again.
    change(loop, job_id, states.resume)
    loop.tick(3)
    assert loop.stages.begun == [f"{job_id}/1-train"]
    validating = f"Validating training file: {loop.file_id}"
    assert loop.told(job_id).count(validating) == 2


def test_what_was_never_paused_cannot_be_resumed_and_what_goes_on_again_can(new: NewLoop) -> None:
    loop = new()
    job_id = loop.create()
    for status in ("validating_files", "queued", "running", "succeeded"):
        loop.change(job_id, status=status)
        with pytest.raises(ApiError, match=f"is {status}; only a job that is paused") as refused:
            change(loop, job_id, states.resume)
        assert refused.value.status_code == 400
    loop.change(job_id, status="paused")
    change(loop, job_id, states.resume)
    told = loop.told(job_id)
    for status in ("validating_files", "queued", "running"):
        loop.change(job_id, status=status)
        change(loop, job_id, states.resume)
        assert (loop.job(job_id).status, loop.told(job_id)) == (status, told)
    loop.change(job_id, status="cancelled")
    with pytest.raises(ApiError, match="is cancelled"):
        change(loop, job_id, states.resume)


def test_a_paused_job_counts_as_one_of_its_project(new: NewLoop) -> None:
    loop = new(limits={"project_jobs": 1})
    job_id = loop.create()
    change(loop, job_id, states.pause)
    with pytest.raises(ApiError, match="1 jobs that have not ended") as refused:
        loop.create()
    assert (refused.value.status_code, refused.value.code) == (429, "rate_limit_exceeded")
    change(loop, job_id, states.cancel)
    change(loop, job_id, states.cancel)
    loop.create()


def test_a_project_trains_no_more_at_once_than_it_may(new: NewLoop) -> None:
    loop = new(limits={"project_runs": 1})
    loop.slots = 2
    first, second = loop.begin(), loop.create()
    loop.tick(3)
    assert (loop.job(first).status, loop.job(second).status) == ("running", "queued")
    loop.services.settings.limits.__dict__["project_runs"] = 2
    loop.tick()
    assert (loop.job(second).status, loop.job(second).slot) == ("running", 1)


def change(loop: Loop, job_id: str, wish: Callable[..., None]) -> None:
    with loop.services.database.writing() as session:
        wish(session, session.merge(loop.job(job_id)))


# -- what a run tells --------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["exit", "cancel"])
def test_all_that_a_run_wrote_is_told_before_its_stage_is_over(
    new: NewLoop, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setattr(progress, "_MOST_LINES", 4)
    loop = new()
    job_id = loop.begin()
    loop.write_run(job_id, range(1, 12))
    if end == "exit":
        loop.stages.end(f"{job_id}/1-train")
    else:
        change(loop, job_id, states.cancel)
    for told in (4, 8):
        loop.tick()
        assert loop.steps(job_id) == list(range(1, told + 1))
        job = loop.job(job_id)
        assert (job.stage, job.slot) == ("train", 0)
        # The next look is not waited for.
        assert loop.services.wake.is_set()
    loop.tick()
    assert loop.steps(job_id) == list(range(1, 12))
    assert loop.job(job_id).slot is None


@pytest.mark.parametrize("width", [0, 3, 5])
def test_metrics_go_on_when_the_trainer_has_cut_and_written_them_anew(new: NewLoop, width: int) -> None:
    """Lines of another length end elsewhere; one of them may still end where the last one did."""
    loop = new()
    job_id = loop.begin()
    loop.write_metrics(job_id, range(1, 9), width=5)
    loop.tick()
    for last in (10, 14, 40):
        loop.write_metrics(job_id, range(1, last + 1), width=width)
        loop.tick()
        assert loop.steps(job_id) == list(range(1, last + 1))


def test_a_line_that_cannot_be_read_is_passed_over(new: NewLoop) -> None:
    loop = new()
    job_id = loop.begin()
    loop.write_metrics(job_id, range(1, 5))
    file = loop.store.run(f"{job_id}-0123456789") / "metrics.jsonl"
    first, second, third, fourth = file.read_text().splitlines()
    file.write_text("\n".join([first, second[:9], "3", "", third, fourth[:9]]))
    loop.tick(2)
    assert loop.steps(job_id) == [1, 3]
    with file.open("a") as stream:
        stream.write(f"{fourth[9:]}\n")
    loop.tick()
    assert loop.steps(job_id) == [1, 3, 4]


@pytest.mark.parametrize("told", ["link", "pipe", "bytes", "another", "long"])
def test_what_a_hostile_run_leaves_in_the_place_of_its_id_is_not_repeated(new: NewLoop, told: str) -> None:
    loop = new()
    job_id = loop.trained()
    file = loop.workspace(job_id) / "out" / "run-id"
    (secret := file.with_name("secret")).write_text(f"{job_id}-0123456789")
    file.unlink()
    if told == "link":
        file.symlink_to(secret)
    elif told == "pipe":
        os.mkfifo(file)
    else:
        file.write_bytes(
            {"bytes": b"\xffsecret", "another": b"secret-0123456789", "long": b"secret" * 999}[told]
        )
    loop.tick()
    failed = loop.job(job_id)
    assert failed.status == "failed" and "run-id" in failed.error["message"]
    assert "secret" not in failed.error["message"]


def test_a_status_that_cannot_be_read_is_none(new: NewLoop) -> None:
    loop = new()
    job_id = loop.begin()
    loop.write_metrics(job_id, [1])
    run = loop.store.run(f"{job_id}-0123456789")
    written = (run / "status.json").read_bytes()
    (run / "status.json").write_bytes(b"\xff" + written)
    loop.tick()
    assert loop.steps(job_id) == []
    (run / "status.json").write_bytes(written)
    (run / "metrics.jsonl").rename(run / "elsewhere")
    os.mkfifo(run / "metrics.jsonl")
    loop.tick()
    assert loop.steps(job_id) == []
    (run / "elsewhere").replace(run / "metrics.jsonl")
    loop.tick()
    assert loop.steps(job_id) == [1]


# -- how a stage ends --------------------------------------------------------------------------------


def test_a_slot_is_not_free_while_a_keeper_may_come(new: NewLoop, tmp_path: Path) -> None:
    """Begun by an api that was killed at that moment, it would train beside the next job."""
    loop = new()
    local = LocalLauncher(loop.services.settings)
    job_id = loop.create()
    loop.tick(2)
    ran = tmp_path / "ran"
    stage = loop.services.settings.data.resolve() / "stages" / job_id / "1-train"
    stage.mkdir(parents=True)
    command = python(f"open({str(ran)!r}, 'w')")
    told = {"arguments": list(command.arguments), "environment": {}, "stop_seconds": 1}
    Folder(stage).write_command(told)
    change(loop, job_id, states.pause)
    loop.tick(launcher=local)
    assert loop.job(job_id).slot is None
    subprocess.run([sys.executable, "-m", "hone_api.launcher.keeper", str(stage)], check=True, timeout=20)
    assert local.state("/".join(stage.parts[-2:])).code == 143
    assert not ran.exists()


@pytest.mark.parametrize(
    ("stage", "code", "named"),
    [
        ("train", 65, "invalid_training_file"),
        ("train", 78, "invalid_configuration"),
        ("merge", 65, "server_error"),
    ],
)
def test_what_a_failed_stage_said_is_told_without_the_operators_paths(
    new: NewLoop, stage: str, code: int, named: str
) -> None:
    loop = new()
    if stage == "train":
        job_id, name = (job := loop.begin()), f"{job}/1-train"
    else:
        job_id = loop.trained(metadata={"hone.deploy": "merged"})
        loop.tick(2)
        name = f"{job_id}/2-merge"
    data, store = loop.services.settings.data.resolve(), loop.services.settings.store.resolve()
    said = (
        f"{data}/jobs/{job_id}/train.jsonl, line 3: no text; {store}/bases/one and ~/.cache/hub are 1/2 there"
    )
    loop.stages.end(name, code, f"Traceback\nerror: {said}\n")
    loop.tick()
    failed = loop.job(job_id)
    assert (failed.status, failed.error["code"]) == ("failed", named)
    assert failed.error["message"].endswith(f"{loop.file_id}, line 3: no text; one and hub are 1/2 there")
    assert said in (data.parent / "log.jsonl").read_text()


def test_what_a_crashed_stage_wrote_is_in_the_operators_log_alone(new: NewLoop) -> None:
    loop = new()
    job_id = loop.begin()
    loop.stages.end(f"{job_id}/1-train", 1, "Traceback\nIndexError: out of reach\n")
    loop.tick()
    assert loop.job(job_id).error["message"] == "The train ended with 1"
    log = (loop.services.settings.data.parent / "log.jsonl").read_text()
    assert "IndexError: out of reach" in log and job_id in log


def test_a_deploying_job_whose_adapter_is_gone_fails(new: NewLoop) -> None:
    loop = new()
    job_id = loop.trained()
    loop.tick()
    shutil.rmtree(loop.store.adapter(f"{job_id}-0123456789"))
    loop.tick()
    failed = loop.job(job_id)
    assert (failed.status, failed.error["code"], failed.error["param"]) == ("failed", "server_error", None)
    assert f"no adapter at {job_id}-0123456789" in failed.error["message"]


# -- checkpoints that become adapters ----------------------------------------------------------------


def imports(loop: Loop, state: str = "running") -> list[str]:
    """Stages of imports, without their jobs' ids."""
    found = [name for name, told in loop.stages.states.items() if told.state == state]
    return [name.partition("/")[2] for name in found if name.endswith("-import")]


def end_import(loop: Loop, job_id: str, step: int, attempt: int = 1) -> str:
    """As one that has made its adapter."""
    adapter = f"{job_id}-step-{step}-0123456789"
    loop.write_adapter(adapter)
    loop.stages.end(f"{job_id}/step-{step}-{attempt}-import")
    return adapter


def test_checkpoints_become_adapters_while_their_run_trains(new: NewLoop) -> None:
    loop = new()
    job_id = loop.begin(suffix="bot")
    loop.write_metrics(job_id, range(1, 5))
    loop.write_checkpoints(job_id, 2, 4)
    loop.tick(2)
    name = f"ft:stand-in:hone:bot:{job_id[-8:]}"
    listed = {step: each.model for step, each in loop.checkpoints(job_id).items()}
    assert listed == {2: f"{name}:ckpt-step-2", 4: f"{name}:ckpt-step-4"}
    assert loop.told(job_id)[-2:] == ["Checkpoint created at step 2", "Checkpoint created at step 4"]
    # One at a time, and first the one that the run keeps longest.
    assert imports(loop) == ["step-4-1-import"]
    adapter = end_import(loop, job_id, 4)
    loop.tick()
    assert loop.checkpoints(job_id)[4].served_as == adapter
    # The last of all is the model itself, so nothing is made of it.
    loop.write_checkpoints(job_id, 9)
    loop.tick()
    assert imports(loop) == ["step-2-1-import"]
    assert 9 not in loop.checkpoints(job_id)
    ids = {step: each.id for step, each in loop.checkpoints(job_id).items()}
    loop.write_run(job_id, range(1, 10))
    loop.stages.end(f"{job_id}/1-train")
    loop.tick(2)
    done = loop.job(job_id)
    assert (done.status, done.stage, done.fine_tuned_model) == ("succeeded", "end", name)
    found = loop.checkpoints(job_id)
    assert {step: found[step].id for step in (2, 4)} == ids
    assert found[4].served_as == adapter and found[9].served_as == done.run_id
    assert found[9].model == f"{name}:ckpt-step-9"
    end_import(loop, job_id, 2)
    loop.tick(2)
    assert loop.stages.names(job_id) == []


def test_without_the_last_steps_checkpoint_none_is_the_model(new: NewLoop) -> None:
    loop = new()
    job_id = loop.begin()
    loop.write_run(job_id, range(1, 4), checkpoints=(1, 2))
    loop.stages.end(f"{job_id}/1-train")
    loop.tick(2)
    assert loop.job(job_id).status == "succeeded"
    assert imports(loop) == ["step-2-1-import"]
    adapter = end_import(loop, job_id, 2)
    loop.tick()
    assert loop.checkpoints(job_id)[2].served_as == adapter


def test_checkpoints_wait_until_their_run_has_ended_if_the_operator_says_so(new: NewLoop) -> None:
    loop = new(checkpoints="after")
    job_id = loop.begin()
    loop.write_metrics(job_id, range(1, 5))
    loop.write_checkpoints(job_id, 2)
    loop.tick(2)
    assert [*loop.checkpoints(job_id)] == [2]
    change(loop, job_id, states.pause)
    loop.tick(2)
    assert imports(loop) == []
    # What there is of it can be asked, however it ends.
    change(loop, job_id, states.cancel)
    loop.tick()
    assert imports(loop) == ["step-2-1-import"]
    assert loop.workspace(job_id).exists()
    end_import(loop, job_id, 2)
    loop.tick(2)
    assert loop.checkpoints(job_id)[2].served_as
    assert not loop.workspace(job_id).exists()


@pytest.mark.parametrize(
    ("checkpoints", "gpus", "at_once"),
    [("auto", [], False), ("auto", ["0"], True), ("during", [], True), ("after", ["0"], False)],
)
def test_a_run_on_this_machines_cpus_has_them_for_itself(
    new: NewLoop, checkpoints: str, gpus: list[str], at_once: bool
) -> None:
    services = new(checkpoints=checkpoints).services
    loop = Reconciler(services, LocalLauncher(services.settings), 1, gpus)
    assert loop._imports_during_runs is at_once


def test_a_checkpoint_that_the_run_removes_is_forgotten_and_a_made_one_is_not(new: NewLoop) -> None:
    loop = new()
    job_id = loop.begin()
    folder = loop.store.checkpoint(f"{job_id}-0123456789", 1).parent
    loop.write_metrics(job_id, range(1, 7))
    loop.write_checkpoints(job_id, 1, 2, 3, 4)
    loop.tick()
    end_import(loop, job_id, 4)
    loop.tick(2)
    assert imports(loop) == ["step-3-1-import"]
    for gone in (1, 3, 4):
        shutil.rmtree(folder / f"step-{gone}")
    loop.tick()
    assert [*loop.checkpoints(job_id)] == [2, 3, 4]
    # Midway: whatever the import says of it, it is no failure.
    loop.stages.end(f"{job_id}/step-3-1-import", 65, "error: no adapter_model.safetensors")
    loop.tick()
    assert [*loop.checkpoints(job_id)] == [2, 4]
    # Between its turn and its beginning.
    shutil.rmtree(folder / "step-2")
    with loop.services.database.writing() as session:
        session.merge(loop.checkpoints(job_id)[2]).importing = True
    loop.tick()
    assert [*loop.checkpoints(job_id)] == [4]
    assert loop.stages.begun == [
        f"{job_id}/{name}" for name in ("1-train", "step-4-1-import", "step-3-1-import")
    ]
    assert not [told for told in loop.told(job_id) if "cannot be asked" in told or "no adapter yet" in told]


def test_a_store_that_cannot_be_looked_at_makes_nothing_be_forgotten(new: NewLoop) -> None:
    loop = new(checkpoints="after")
    job_id = loop.begin()
    loop.write_metrics(job_id, range(1, 7))
    loop.write_checkpoints(job_id, 2)
    loop.tick()
    change(loop, job_id, states.cancel)
    loop.store.root.rename(away := loop.store.root.with_name("away"))
    loop.tick(2)
    assert [*loop.checkpoints(job_id)] == [2]
    away.rename(loop.store.root)
    loop.tick()
    assert imports(loop) == ["step-2-1-import"]


def test_the_job_that_waits_longest_is_next(new: NewLoop) -> None:
    loop = new()
    loop.slots = 2
    busy, other = loop.begin(), loop.begin()
    for step in (1, 2, 3):
        loop.write_metrics(busy, range(1, step + 1))
        loop.write_checkpoints(busy, step)
        loop.tick()
        if step == 1:
            loop.write_metrics(other, [1])
            loop.write_checkpoints(other, 1)
            loop.tick()
    end_import(loop, busy, 1)
    loop.tick(2)
    assert [name for name in loop.stages.begun if "import" in name][-1] == f"{other}/step-1-1-import"


def test_an_import_that_cannot_be_is_given_up_and_the_next_ones_go_on(new: NewLoop) -> None:
    loop = new()
    job_id = loop.begin()
    loop.write_metrics(job_id, range(1, 5))
    loop.write_checkpoints(job_id, 1, 2)
    manifest = loop.store.checkpoint(f"{job_id}-0123456789", 2) / "manifest.json"
    manifest.write_text("{}")
    loop.tick(2)
    (given_up,) = [told for told in loop.told(job_id) if told.startswith("The checkpoint of step")]
    assert given_up.startswith("The checkpoint of step 2 cannot be asked: manifest.json")
    assert str(loop.store.root) not in given_up
    assert loop.checkpoints(job_id)[2].served_as == ""
    assert imports(loop) == ["step-1-1-import"]


def test_an_import_that_cannot_begin_is_told_of_and_lets_the_next_have_its_turn(new: NewLoop) -> None:
    loop = new()
    job_id = loop.begin()
    loop.write_metrics(job_id, range(1, 5))
    loop.write_checkpoints(job_id, 1, 2)
    loop.tick(2)

    def wait(step: int, nodes: int, hours: int = 0) -> None:
        name = f"{job_id}/step-{step}-1-import"
        loop.stages.states[name] = State("running", note=f"Waits for a node: {nodes} nodes")
        if hours:
            waits = {"stage": name, "for": "Waits for a node", "since": time.time() - hours * 3600}
            loop.change(job_id, progress=loop.job(job_id).progress | {"import_waits": waits})
        loop.tick()

    wait(2, 0)
    wait(2, 1)
    assert loop.stages.stopped == []
    wait(2, 2, hours=1)
    loop.tick()
    assert loop.stages.stopped == [f"{job_id}/step-2-1-import"]
    assert imports(loop) == ["step-1-1-import"]
    # The other one rests, so nobody's turn is kept from him.
    wait(1, 3, hours=1)
    assert imports(loop) == ["step-1-1-import"]
    told = [told for told in loop.told(job_id) if "is not made yet" in told]
    assert told == ["A checkpoint's adapter is not made yet: Waits for a node: 0 nodes"]
    end_import(loop, job_id, 1)
    loop.tick()
    with loop.services.database.writing() as session:
        session.merge(loop.checkpoints(job_id)[2]).not_before = 0
    loop.tick()
    assert imports(loop) == ["step-2-2-import"]


def test_an_import_that_fails_is_tried_again_and_one_that_leaves_nothing_is_given_up(new: NewLoop) -> None:
    loop = new(local={"retry_seconds": 0, "retries": 1})
    job_id = loop.trained()
    loop.tick(2)
    loop.stages.end(f"{job_id}/step-2-1-import", 75, "error: no room")
    loop.tick(2)
    assert "The checkpoint of step 2 has no adapter yet: no room; it is made in 0 s" in loop.told(job_id)
    end_import(loop, job_id, 2, attempt=2)
    loop.tick(2)
    loop.stages.end(f"{job_id}/step-1-1-import")
    loop.tick()
    (given_up,) = [told for told in loop.told(job_id) if "cannot be asked" in told]
    assert given_up == "The checkpoint of step 1 cannot be asked: The import has left no adapter"
    other = loop.trained()
    loop.tick(2)
    for attempt in (1, 2):
        loop.stages.end(f"{other}/step-2-{attempt}-import", 75, "error: no room")
        loop.tick(2)
    assert loop.told(other)[-1] == "The checkpoint of step 2 cannot be asked: no room"


# -- when it is likely to end ------------------------------------------------------------------------


def test_the_end_is_estimated_from_the_pace_of_the_stage(new: NewLoop) -> None:
    loop = new()
    job_id = loop.begin()

    def estimated(*steps: int, clock: int) -> int | None:
        loop.write_metrics(job_id, steps, clock=clock)
        loop.tick()
        return job_object(loop.job(job_id), "hone").estimated_finish

    assert estimated(1, 2, clock=1000) is None
    # Of nine steps three are left, which take ten seconds each.
    assert estimated(*range(1, 7), clock=1040) == 1070
    loop.change(job_id, status="paused")
    assert job_object(loop.job(job_id), "hone").estimated_finish is None
    # A night later it goes on, and a step takes a second.
    loop.change(job_id, status="running", attempt=2)
    loop.stages.states[f"{job_id}/2-train"] = State("running")
    assert estimated(*range(1, 8), clock=90_000) is None
    assert estimated(*range(1, 9), clock=90_001) == 90_002


# -- what is left of a job ---------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["cancelled", "failed", "succeeded"])
def test_nothing_is_left_of_a_job_that_has_ended(new: NewLoop, end: str) -> None:
    loop = new()
    if end == "succeeded":
        job_id = loop.trained()
        loop.tick(3)
        assert loop.job(job_id).status == "succeeded"
        # Its checkpoints come after it, and what they are made by is still to be found.
        assert loop.stages.names(job_id) == [f"{job_id}/1-train", f"{job_id}/step-2-1-import"]
        # The examples, which their owner may have deleted, do not wait for that.
        assert sorted(each.name for each in loop.workspace(job_id).iterdir()) == ["out", "run.yaml"]
        for step in (2, 1):
            loop.stages.end(f"{job_id}/step-{step}-1-import", 65)
            loop.tick(2)
    else:
        job_id = loop.begin()
        if end == "failed":
            loop.stages.end(f"{job_id}/1-train", 65)
        else:
            change(loop, job_id, states.cancel)
        loop.tick()
    assert loop.job(job_id).status == end
    assert loop.stages.names(job_id) == []
    assert not loop.workspace(job_id).exists()


def test_what_a_job_needs_and_what_is_nobodys_stays(new: NewLoop) -> None:
    loop = new()
    paused = loop.begin()
    strange = loop.workspace("ftjob-strange")
    strange.mkdir()
    change(loop, paused, states.pause)
    loop.tick(3)
    assert (loop.workspace(paused) / "run.yaml").exists()
    assert loop.stages.names(paused) == [f"{paused}/1-train"]
    assert strange.exists()


def test_what_a_killed_api_has_not_removed_is_found(new: NewLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much of it is gone."""
    loop = new()
    job_id = loop.begin()
    loop.change(job_id, status="cancelled", slot=None)

    def killed(*_: object) -> None:
        raise OSError("as good as kill -9")

    with monkeypatch.context() as patch:
        # Another attempt of it runs, by whatever mistake: it is ended first.
        loop.tick()
        assert loop.stages.stopped == [f"{job_id}/1-train"]
        patch.setattr(shutil, "rmtree", killed)
        loop.tick()
    assert loop.stages.names(job_id) == []
    (loop.workspace(job_id) / "run.yaml").unlink()
    loop.tick()
    assert not loop.workspace(job_id).exists()


# -- servers -----------------------------------------------------------------------------------------


class Server(ThreadingHTTPServer):
    """Lists its models once all that are together have been asked."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, together: threading.Barrier, models: list[dict[str, str]]) -> None:
        super().__init__(("127.0.0.1", 0), _Listing)
        self.together, self.models, self.asked = together, models, 0
        self.dawdles = 0
        """Bytes that say nothing, twenty a second, before the answer."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Listing(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked += 1
        try:
            self.server.together.wait(10)
        except threading.BrokenBarrierError:
            self.send_error(500)
            return
        self.send_response(200)
        self.end_headers()
        with suppress(OSError):
            for _ in range(self.server.dawdles):
                time.sleep(0.05)
                self.wfile.write(b" ")
            self.wfile.write(json.dumps({"data": self.server.models}).encode())

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(count: int, *models: dict[str, str]) -> Iterator[list[Server]]:
    together = threading.Barrier(count)
    servers = [Server(together, list(models)) for _ in range(count)]
    for server in servers:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield servers
    for server in servers:
        server.shutdown()
        server.server_close()


@contextmanager
def silent() -> Iterator[str]:
    """A server that takes connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_servers_are_asked_at_once_and_once_for_all_jobs(new: NewLoop) -> None:
    with serving(3) as servers:
        loop = new(servers=[{"url": server.url, "base": BASE} for server in servers])
        jobs = []
        for _ in range(2):
            jobs.append(loop.trained())
            loop.tick()
        asked = [server.asked for server in servers]
        loop.tick()
        assert [server.asked for server in servers] == [before + 1 for before in asked]
        for job_id in jobs:
            # Three of one base, of which a client learns no address.
            assert loop.told(job_id)[-1] == f"The server of {BASE} does not list {job_id}-0123456789 yet"
        log = (loop.services.settings.data.parent / "log.jsonl").read_text()
        assert f"{servers[2].url} does not list {jobs[1]}-0123456789 yet" in log


def test_servers_of_several_models_are_asked_at_once_and_others_not_at_all(new: NewLoop) -> None:
    with serving(2) as servers, serving(1) as (other,):
        loop = new()
        loop.slots = 2
        jobs = [loop.trained(metadata={"hone.deploy": "merged"}) for _ in servers]
        loop.tick(2)
        for job_id in jobs:
            loop.stages.end(f"{job_id}/2-merge")
        found = [Upstream(url=server.url, model=job) for server, job in zip(servers, jobs, strict=True)]
        loop.services.settings.find([*found, Upstream(url=other.url, model="another")])
        loop.tick(2)
        for job_id in jobs:
            assert loop.told(job_id)[-1] == f"The server of {job_id} does not list {job_id} yet"
        assert ([server.asked for server in servers], other.asked) == ([1, 1], 0)


def test_no_server_waits_for_the_connection_of_another() -> None:
    with serving(1, {"id": "bot"}) as (server,):
        # More than a pool has by default.
        server.together = threading.Barrier(120)
        many = [Upstream(url=server.url, model="bot", hold_seconds=each) for each in range(120)]
        listings = presence.Listings(Settings(servers=many))
        assert listings.presence(base="", served_as="bot", merged=True).state == "served"
        assert set(map(str, listings._told.values())) == {"{'bot': None}"}


def test_a_server_that_dawdles_is_not_waited_for(new: NewLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "_SECONDS", 0.3)
    with serving(1) as (server,):
        server.dawdles = 60
        loop = new(servers=[{"url": server.url, "base": BASE}])
        job_id = loop.trained()
        loop.tick(2)
        assert f"The server of {BASE} does not answer within" in loop.told(job_id)[-1]


@pytest.mark.parametrize("answers", [False, True])
def test_a_server_that_sleeps_is_not_awaited_where_requests_wake_it(new: NewLoop, answers: bool) -> None:
    with silent() as gone:
        pass
    with serving(1) as (server,):
        told = [{"url": server.url if answers else gone, "base": BASE, "hold_seconds": 60}]
        loop = new(servers=told)
        job_id = loop.trained()
        loop.tick(2)
        wanted = f"The server of {BASE} is not there now; a request wakes it, and it serves"
        assert (loop.job(job_id).status == "succeeded") is not answers
        assert any(each.startswith(wanted) for each in loop.told(job_id)) is not answers


def test_a_merged_model_is_served_when_its_own_version_is(new: NewLoop) -> None:
    with serving(1) as (server,):
        loop = new()
        job_id = loop.trained(metadata={"hone.deploy": "merged"})
        # A merged model without a suffix is published under the job's id.
        upstream = {"url": server.url, "model": job_id}
        servers = type(loop.services.settings).model_validate({"servers": [upstream]}).servers
        loop.services.settings.servers.extend(servers)
        loop.tick(2)
        loop.stages.end(f"{job_id}/2-merge")
        version = f"{job_id}-0123456789"
        server.models.append({"id": job_id, "version": "an-older-one"})
        loop.tick(2)
        assert loop.job(job_id).status == "running"
        assert (
            f"serves {job_id} in the version an-older-one, and not yet in {version}" in loop.told(job_id)[-1]
        )
        server.models[:] = [{"id": job_id, "version": version}]
        loop.tick()
        assert loop.job(job_id).status == "succeeded"


def test_a_server_that_is_made_for_a_merged_model_is_awaited_and_told_of(new: NewLoop) -> None:
    with serving(1) as (server,):
        loop, made = new(), Made()
        job_id = _merged(loop, made, "Its server is not up (waits for a node): 0/1 nodes")
        assert made.kept == {job_id}
        made.notes[job_id] = "Its server is not up (waits for a node): 0/2 nodes"
        # Its Service is found, and nobody answers there.
        with silent() as gone:
            pass
        loop.services.settings.find([Upstream(url=gone, model=job_id, hold_seconds=60)])
        made.look(loop)
        assert loop.job(job_id).status == "running"
        told = loop.told(job_id)
        assert [each for each in told if "server" in each] == [
            "Its server is not up (waits for a node): 0/1 nodes",
            "The server that is made for it does not serve it yet.",
        ]
        server.models.append({"id": job_id, "version": f"{job_id}-0123456789"})
        loop.services.settings.find([Upstream(url=server.url, model=job_id)])
        made.look(loop)
        assert loop.job(job_id).status == "succeeded"
        made.look(loop)
        assert made.kept == {job_id}
        with loop.services.database.writing() as session:
            for model in session.scalars(select(Model)):
                model.deleted_at = 1
        made.look(loop)
        assert made.kept == set()
        # And is known to be ours, unlike what another api has made.
        assert made.known({job_id, "ftjob-of-another"}) == {job_id} and made.known(set()) == set()


def test_what_jobs_of_here_publish_is_known_by_its_suffix_too(new: NewLoop) -> None:
    loop = new()
    job = loop.job(loop.create(suffix="support bot"))
    with loop.services.database.reading() as session:
        name = results.published_as(session, job)
        assert results.known_models(session, {name, f"{name}0"}) == {name}


def test_a_job_that_was_paused_waits_for_its_server_anew(new: NewLoop) -> None:
    loop, made = new(), Made()
    job_id = _merged(loop, made, "")
    with loop.services.database.writing() as session:
        session.execute(update(Job).values(progress={"deploying": 1}))
    change(loop, job_id, states.pause)
    made.look(loop)
    assert made.kept == set()
    change(loop, job_id, states.resume)
    made.look(loop, 2)
    assert (loop.job(job_id).status, made.kept) == ("running", {job_id})
    assert loop.job(job_id).progress["deploying"] > 1


def test_a_job_whose_server_does_not_come_ends_with_the_reason(new: NewLoop) -> None:
    loop, made = new(), Made()
    job_id = _merged(loop, made, "Its server waits for its quota: gpus")
    with loop.services.database.writing() as session:
        session.execute(update(Job).values(progress={"deploying": int(time.time()) - merged.START_SECONDS}))
    made.look(loop)
    assert loop.job(job_id).status == "succeeded"
    told = "The server that is made for it does not serve it yet. Its server waits for its quota: gpus"
    assert loop.told(job_id)[-1] == told


@dataclass
class Made:
    """Whoever makes servers, of which a test says how they are."""

    notes: dict[str, str] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)
    known: Known = field(init=False)

    def keep(self, models: Collection[str], known: Known) -> None:
        self.kept, self.known = {*models}, known

    def waits_for(self, model: str) -> str | None:
        return self.notes.get(model)

    def look(self, loop: Loop, times: int = 1) -> None:
        for _ in range(times):
            Reconciler(loop.services, loop.stages, 1, servers=self).tick()


def _merged(loop: Loop, made: Made, note: str) -> str:
    """A job whose merged model waits for its server."""
    job_id = loop.trained(metadata={"hone.deploy": "merged"})
    made.look(loop, 2)
    loop.stages.end(f"{job_id}/2-merge")
    made.notes[job_id] = note
    made.look(loop, 2)
    return job_id


@pytest.mark.parametrize("version", [{}, {"version": "run-1"}, {"version": "run-1-float16"}])
def test_a_version_is_known_by_its_run(version: dict[str, Any]) -> None:
    listed = {"bot": version.get("version")}
    assert presence._why_not(listed, "bot", "run-1") is None


def test_training_waits_for_a_server_that_does_not_answer(
    new: NewLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "_SECONDS", 0.1)
    with silent() as url:
        loop = new(local={"serving": "wait"}, servers=[{"url": url, "base": BASE}])
        looks, look = [], sharing.Sharing._is_there
        monkeypatch.setattr(sharing.Sharing, "_is_there", lambda *one: looks.append(one) or look(*one))
        job_id, other = loop.create(), loop.create()
        loop.tick(2)
        assert loop.job(job_id).status == "queued"
        for waiting in (job_id, other):
            assert "Training waits until serving has ended" in loop.told(waiting)[-1]
        # At the second look, for both.
        assert len(looks) == 1
    loop.tick()
    assert loop.job(job_id).status == "running"


def test_of_what_let_serving_wait_and_go_on_only_the_newest_is_kept(new: NewLoop) -> None:
    commands = {"pause_command": ["pause"], "resume_command": ["resume"]}
    loop = new(local={"serving": "pause", **commands})
    for count in (1, 3):
        job_id = loop.create()
        loop.tick(2)
        assert loop.stages.names("serving") == [f"serving/{count}-pause"]
        loop.stages.end(f"serving/{count}-pause")
        loop.tick()
        assert loop.job(job_id).status == "running"
        change(loop, job_id, states.cancel)
        loop.tick()
        assert loop.stages.names("serving") == [f"serving/{count + 1}-resume"]
        loop.stages.end(f"serving/{count + 1}-resume")
