"""Trackers by name: one that is not installed is told at once, one that is gets the run's numbers."""

import importlib.util
import os
from pathlib import Path

import pytest
from trainer_cli import refusal, run_trainer
from trainer_watch import STEPS, begin, make_loop
from transformers import PreTrainedTokenizerFast

from hone_contract.errors import BadConfiguration
from hone_trainer.reporting.trackers import check_trackers, tracking

MISSING = [name for name in ("wandb", "mlflow", "trackio") if importlib.util.find_spec(name) is None]


@pytest.mark.parametrize("name", MISSING)
def test_a_tracker_that_is_not_installed_is_refused_with_the_command(name: str) -> None:
    told = f"training.report_to: {name} is not installed here; run `pip install {name}`, or leave it out"
    with pytest.raises(BadConfiguration) as refused:
        check_trackers(["tensorboard", name])
    assert str(refused.value) == told


@pytest.mark.skipif(not MISSING, reason="every tracker is installed")
def test_the_command_refuses_it_before_anything_is_fetched(tmp_path: Path) -> None:
    spec = f"model: {{name: ./nowhere}}\ntraining: {{report_to: [{MISSING[0]}]}}\n"
    (tmp_path / "run.yaml").write_text(spec, encoding="utf-8")
    told = refusal(run_trainer(tmp_path, "train", "run.yaml", "--data", "nothing.jsonl"), 78)
    assert f"`pip install {MISSING[0]}`" in told


def test_tensorboard_needs_either_of_two_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    check_trackers(["tensorboard"])
    find = importlib.util.find_spec
    gone = {"tensorboard", "tensorboardX"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in gone else find(name))
    with pytest.raises(BadConfiguration, match="run `pip install tensorboard`"):
        check_trackers(["tensorboard"])


def test_no_tracker_is_never_refused(tmp_path: Path) -> None:
    check_trackers([])
    with tracking([], tmp_path / "sky-1") as arguments:
        assert arguments["report_to"] == "none"


def test_tensorboard_gets_the_losses_in_the_runs_folder(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    folder = begin(tmp_path)
    with tracking(["tensorboard"], folder) as arguments:
        loop, _ = make_loop(folder, tokenizer, **arguments, eval_strategy="no", save_strategy="no")
        loop.train()
    assert loop.args.run_name == "sky-1"
    [file] = (folder / "tensorboard").glob("events.out.tfevents.*")
    assert file.read_bytes().count(b"train/loss") == STEPS
    assert {path.name for path in folder.iterdir()} >= {"tensorboard", "metrics.jsonl"}


def test_another_run_of_the_process_has_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    for name in ("sky-1", "sky-2"):
        with tracking(["tensorboard", "wandb", "mlflow", "trackio"], tmp_path / name):
            assert os.environ["TENSORBOARD_LOGGING_DIR"] == str(tmp_path / name / "tensorboard")
            assert (os.environ["WANDB_PROJECT"], os.environ["WANDB_DIR"]) == ("mine", str(tmp_path / name))
    assert "TENSORBOARD_LOGGING_DIR" not in os.environ
    assert os.environ["WANDB_PROJECT"] == "mine"


def test_a_run_may_have_a_name_of_its_own_for_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_NAME", "mine")
    for names, told in ((["wandb"], "mine"), (["tensorboard"], "sky-1")):
        with tracking(names, tmp_path / "sky-1") as arguments:
            assert arguments["run_name"] == told
