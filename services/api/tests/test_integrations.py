"""A job's `integrations`: what is taken, what the SDK sees of it, and what the trainer is told."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from api_loop import Held, Loop, emptied, new_loop
from openai.types.fine_tuning import FineTuningJob
from pydantic import ValidationError

from hone_api.database.session import Database
from hone_api.errors import ApiError
from hone_api.launcher.stages import Command
from hone_api.wire.jobs import CreateJob, job_object

FULL = {"project": "tuning", "entity": "team", "name": "Second try", "tags": ["a b", "c"]}


class Watched(Held):
    """Keeps what it was asked to run last."""

    command: Command

    def begin(self, name: str, command: Command) -> None:
        self.command = command
        super().begin(name, command)


@pytest.fixture(scope="module")
def database(database_url: str) -> Iterator[Database]:
    with emptied(database_url) as database:
        yield database


@pytest.fixture
def stages(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "output")


@pytest.fixture
def loop(tmp_path: Path, database: Database, stages: Watched) -> Loop:
    made = new_loop(tmp_path, database, wandb=True)
    made.stages = stages
    return made


def wandb(**told: Any) -> list[dict[str, Any]]:
    return [{"type": "wandb", "wandb": told}]


def environment(stages: Watched) -> dict[str, str]:
    return {name: value for name, value in stages.command.environment.items() if "WANDB" in name}


def reported(loop: Loop, job_id: str) -> list[str]:
    spec = yaml.safe_load((loop.workspace(job_id) / "run.yaml").read_text())
    told: list[str] = spec["training"]["report_to"]
    return told


def test_the_trainer_is_told_where_its_figures_go(
    loop: Loop, stages: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "operators")
    job_id = loop.begin(integrations=wandb(**FULL))
    assert reported(loop, job_id) == ["wandb"]
    assert environment(stages) == {
        "WANDB_PROJECT": "tuning",
        "WANDB_ENTITY": "team",
        "WANDB_NAME": "Second try",
        "WANDB_TAGS": "a b,c",
        "WANDB_RUN_ID": job_id,
        "WANDB_RESUME": "allow",
        "WANDB_API_KEY": "operators",
    }
    seen = FineTuningJob.model_validate(job_object(loop.job(job_id), "hone").model_dump())
    assert seen.integrations is not None
    assert [each.model_dump() for each in seen.integrations] == wandb(**FULL)


def test_in_a_cluster_the_key_is_in_no_job(
    loop: Loop, stages: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "operators")
    monkeypatch.setitem(loop.services.settings.__dict__, "launcher", "kubernetes")
    loop.begin(integrations=wandb(**FULL))
    assert environment(stages).keys() >= {"WANDB_PROJECT"} and "operators" not in str(stages.command)


def test_a_run_is_named_by_its_job_unless_it_has_a_name(
    loop: Loop, stages: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    job_id = loop.begin(integrations=wandb(project="tuning"))
    told = environment(stages)
    assert told["WANDB_NAME"] == job_id
    assert not told.keys() & {"WANDB_API_KEY", "WANDB_TAGS", "WANDB_ENTITY"}


def test_a_job_without_any_tells_nobody(loop: Loop, stages: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "operators")
    job_id = loop.begin()
    assert (reported(loop, job_id), environment(stages)) == ([], {})
    assert job_object(loop.job(job_id), "hone").integrations == []


def test_it_is_the_operator_who_allows_it(tmp_path: Path, database: Database) -> None:
    loop = new_loop(tmp_path, database)
    with pytest.raises(ApiError, match="by the setting `wandb`") as refused:
        loop.create(integrations=wandb(project="tuning"))
    assert refused.value.param == "integrations"
    loop.create(integrations=[])


@pytest.mark.parametrize(
    "integrations",
    [
        [{"type": "trackio", "wandb": {"project": "a"}}],
        [{"type": "wandb"}],
        wandb(entity="team"),
        wandb(project=""),
        wandb(project="a/b"),
        wandb(project="a b"),
        wandb(project="a\0b"),
        wandb(project="a", tags=["b,c"]),
        wandb(project="a", tags=["b\nc"]),
        wandb(project="a", name="b\x1bc"),
        wandb(project="a", api_key="b"),
        wandb(project="a") * 2,
    ],
)
def test_what_is_none_is_refused(integrations: list[dict[str, Any]]) -> None:
    with pytest.raises(ValidationError, match="integrations"):
        CreateJob.model_validate({"model": "m", "training_file": "f", "integrations": integrations})
