"""What a run tells: while it trains, when it goes on after it was killed, and when it fails."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from trainer_watch import (
    EPOCHS,
    LENGTH,
    SPEC,
    STEPS,
    STEPS_AN_EPOCH,
    Loop,
    begin,
    events_of,
    go_on,
    make_loop,
    status_of,
)
from transformers import (
    PreTrainedTokenizerFast,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from hone_contract.errors import BadInput, RetryableFailure
from hone_contract.events import Reporter, StepMetrics, append_line
from hone_trainer.reporting import diary as diary_module
from hone_trainer.reporting.diary import Diary, begin_diary, failure_told
from hone_trainer.reporting.run_files import read_metrics

pytestmark = pytest.mark.chain

TOKENS_A_STEP = 2 * LENGTH


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return begin(tmp_path)


class Terminal(io.StringIO):
    """Standard error, if a person were looking at it."""

    def isatty(self) -> bool:
        return True


class StopAt(TrainerCallback):  # type: ignore[misc]
    """Saves and stops after so many steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, *arguments: Any, **_: Any) -> None:
        _, state, control = arguments
        control.should_save = control.should_training_stop = state.global_step == self.step


# -- while it trains -------------------------------------------------------------------------------


def test_a_run_tells_of_steps_evaluations_and_checkpoints(
    folder: Path, tokenizer: PreTrainedTokenizerFast, capsys: pytest.CaptureFixture[str]
) -> None:
    loop, diary = make_loop(folder, tokenizer)
    loop.evaluate()
    loop.train()
    metrics = read_metrics(folder / "metrics.jsonl")
    steps = [line for line in metrics if line.loss is not None]
    assert [line.step for line in steps] == list(range(1, STEPS + 1))
    assert [line.tokens for line in steps] == [TOKENS_A_STEP * line.step for line in steps]
    assert [line.epoch for line in steps] == pytest.approx([line.step / STEPS_AN_EPOCH for line in steps])
    assert (steps[0].learning_rate, steps[-1].learning_rate) == pytest.approx((1e-2, 1e-2 / STEPS))
    assert all((line.grad_norm or 0) > 0 and (line.tokens_per_second or 0) > 0 for line in steps)
    # A process with torch loaded holds at least 100 MB, and no test machine has a terabyte.
    assert all(100 < (line.memory_mb or 0) < 1e6 for line in steps)
    evaluations = [(line.step, line.eval_loss) for line in metrics if line.eval_loss is not None]
    assert evaluations == [(step, 4 - step / 10) for step in (0, STEPS_AN_EPOCH, STEPS)]
    assert (diary.eval_loss_before, diary.eval_loss, diary.loss) == (4.0, 4 - STEPS / 10, steps[-1].loss)
    told = [(event.event, event.message) for event in events_of(folder)]
    assert told == [
        ("evaluated", "before training: evaluation loss 4.000"),
        ("evaluated", "epoch 1: evaluation loss 3.700"),
        ("checkpoint_saved", f"checkpoint step-{STEPS_AN_EPOCH} of {STEPS} is saved"),
        ("evaluated", "epoch 2: evaluation loss 3.400"),
        ("checkpoint_saved", f"checkpoint step-{STEPS} of {STEPS} is saved"),
    ]
    shown = [line for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    assert shown == (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
    status = status_of(folder)
    assert (status.run_id, status.state, status.step, status.total_steps) == (
        "sky-1",
        "running",
        STEPS,
        STEPS,
    )


def test_evaluation_and_saving_do_not_slow_the_tokens_down(
    folder: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    loop, diary = make_loop(folder, tokenizer)
    loop.pause = 0.5
    loop.evaluate()
    loop.train()
    assert diary.seconds["evaluation"] >= EPOCHS * loop.pause
    assert diary.seconds["saving"] >= EPOCHS * loop.pause
    assert diary.tokens_per_second == pytest.approx(STEPS * TOKENS_A_STEP / diary.seconds["training"])
    whole = loop.state.log_history[-1]["train_runtime"]
    assert 0 < diary.seconds["training"] < whole - 2 * EPOCHS * loop.pause


def test_without_a_terminal_a_line_is_told_now_and_then(
    folder: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diary_module, "_TELL_EVERY", 0.0)
    loop, _ = make_loop(folder, tokenizer, eval_strategy="no", save_strategy="no")
    loop.train()
    events = events_of(folder)
    assert [event.event for event in events] == ["training"] * STEPS
    assert events[1].message.startswith(f"step 2/{STEPS}, epoch 0.67, loss ")
    assert "lr 8.33e-03, " in events[1].message and events[1].message.endswith(" s left")
    assert events[-1].data["seconds_left"] == 0 < events[1].data["seconds_left"]  # type: ignore[operator]


def test_on_a_terminal_a_bar_shows_it_and_lines_stand_beside_it(
    folder: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(diary_module, "_TELL_EVERY", 0.0)
    loop, _ = make_loop(folder, tokenizer)
    loop.train()
    shown = terminal.getvalue().replace("\r", "\n").splitlines()
    last = [line for line in shown if line.startswith("training: 100%")][-1]
    assert f"{STEPS}/{STEPS} [" in last and "<00:00" in last
    assert "epoch 2.00, loss " in last and "lr 1.67e-03, " in last and "tokens/s" in last
    assert sum(line.endswith("trainer  epoch 1: evaluation loss 3.700") for line in shown) == 1
    assert not any("{" in line for line in shown)


def test_only_the_first_process_tells_anything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diary_module, "_TELL_EVERY", 0.0)
    folder = tmp_path / "sky-1"
    diary = Diary(folder, Reporter("trainer", folder / "events.jsonl"))
    arguments = TrainingArguments(str(tmp_path / "trainer"), use_cpu=True)
    state, control = TrainerState(max_steps=2, is_world_process_zero=False), TrainerControl()
    diary.on_train_begin(arguments, state, control)
    diary.on_log(arguments, state, control, logs={"loss": 2.0, "learning_rate": 1e-3, "num_tokens": 5.0})
    diary.on_evaluate(arguments, state, control, metrics={"eval_loss": 3.0})
    diary.on_save(arguments, state, control)
    diary.set_status("succeeded", state)
    diary.on_train_end(arguments, state, control)
    assert (diary.loss, diary.eval_loss, diary.tokens) == (2.0, 3.0, 5)
    assert not folder.exists()
    assert capsys.readouterr() == ("", "")


def test_the_status_of_a_run_that_is_stopped_names_its_checkpoint(
    folder: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A busy disk is spared the status of most steps, but not of the one to go on from.
    monkeypatch.setattr(diary_module, "_STATUS_EVERY", 1e9)
    loop, _ = make_loop(folder, tokenizer, max_steps=STEPS_AN_EPOCH + 1)
    loop.add_callback(StopAt(STEPS_AN_EPOCH))
    loop.train()
    assert (status_of(folder).step, status_of(folder).total_steps) == (STEPS_AN_EPOCH, STEPS_AN_EPOCH + 1)


# -- when it goes on -------------------------------------------------------------------------------


def test_a_run_that_goes_on_tells_each_step_once(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    loop, _ = make_loop(folder, tokenizer)
    loop.evaluate()
    loop.train()
    before = read_metrics(folder / "metrics.jsonl")
    begin_diary(folder, SPEC, STEPS_AN_EPOCH)
    status = status_of(folder)
    assert (status.state, status.step, status.total_steps) == ("running", STEPS_AN_EPOCH, STEPS)
    again, diary = make_loop(folder, tokenizer)
    go_on(again, STEPS_AN_EPOCH * TOKENS_A_STEP)
    metrics = read_metrics(folder / "metrics.jsonl")
    assert [(line.step, line.tokens) for line in metrics] == [(line.step, line.tokens) for line in before]
    assert (diary.eval_loss_before, diary.eval_loss) == (4.0, 4 - STEPS / 10)
    new = (STEPS - STEPS_AN_EPOCH) * TOKENS_A_STEP
    assert diary.tokens_per_second == pytest.approx(new / diary.seconds["training"])
    [resumed] = [event for event in events_of(folder) if event.event == "resumed"]
    assert resumed.message == f"run sky-1 goes on from step {STEPS_AN_EPOCH}"


def test_what_a_run_knew_is_known_again_before_its_first_step(
    folder: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    first, _ = make_loop(folder, tokenizer)
    first.evaluate()
    first.train()
    begin_diary(folder, SPEC, STEPS)
    done, diary = make_loop(folder, tokenizer)
    done.state = TrainerState(global_step=STEPS, max_steps=STEPS)
    diary.on_train_begin(done.args, done.state, done.control)
    assert (diary.eval_loss, diary.tokens) == (4 - STEPS / 10, STEPS * TOKENS_A_STEP)
    assert diary.loss == read_metrics(folder / "metrics.jsonl")[-2].loss


def test_going_on_drops_later_steps_and_half_lines(folder: Path) -> None:
    metrics, events = folder / "metrics.jsonl", folder / "events.jsonl"
    lines = [StepMetrics(step=step, epoch=1, loss=1).model_dump_json() for step in range(1, 6)]
    metrics.write_text("\n".join([lines[0], '{"step": 2, "ep', *lines[1:]]) + "\n" + lines[1][:20])
    Reporter("trainer", events).tell("evaluated", "odd\u2028line")
    told = events.read_bytes()
    events.write_bytes(told + '{"time": "20ä'.encode()[:-1])
    begin_diary(folder, SPEC, 3)
    assert metrics.read_text(encoding="utf-8").splitlines() == lines[:3]
    assert events.read_bytes().startswith(told)
    assert json.loads(events.read_bytes()[len(told) :])["event"] == "resumed"


def test_going_on_needs_nothing_of_what_was_told(tmp_path: Path) -> None:
    begin_diary(tmp_path / "sky-1", SPEC, 3)
    assert [event.event for event in events_of(tmp_path / "sky-1")] == ["resumed"]
    assert not (tmp_path / "sky-1" / "metrics.jsonl").exists()


def test_a_start_removes_what_an_earlier_attempt_told(folder: Path) -> None:
    for name in ("events.jsonl", "metrics.jsonl", "report.html", "tensorboard/events.out"):
        append_line(folder / name, "{}")
    begin_diary(folder, "model: {name: other}\n", None)
    assert {path.name for path in folder.iterdir()} == {"spec.yaml", "status.json"}
    assert (folder / "spec.yaml").read_text(encoding="utf-8") == "model: {name: other}\n"
    assert status_of(folder).state == "running"


def test_half_lines_are_passed_over_by_who_reads(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    whole = StepMetrics(step=1, epoch=0.5, loss=2.0)
    path.write_bytes(b'{"step": 1, "ep\n' + whole.model_dump_json().encode() + b'\n\xc3{"step"')
    assert read_metrics(path) == [whole]
    assert read_metrics(tmp_path / "nothing") == []


# -- when it fails ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "state", "message"),
    [
        (BadInput("the loss is nan"), "failed", "the loss is nan"),
        (ValueError("a shape"), "failed", "ValueError: a shape"),
        (SystemExit(3), "failed", "the process ended with exit code 3"),
        (RetryableFailure("stopped at step 4"), "stopped", "stopped at step 4"),
        (SystemExit(75), "stopped", "the process ended with exit code 75"),
        (SystemExit(143), "stopped", "the process ended with exit code 143"),
        (KeyboardInterrupt(), "stopped", "the process was interrupted"),
    ],
    ids=lambda value: repr(value) if isinstance(value, BaseException) else "",
)
def test_a_run_that_ends_says_so(folder: Path, error: BaseException, state: str, message: str) -> None:
    with pytest.raises(type(error)), failure_told(folder):
        raise error
    status = status_of(folder)
    assert (status.state, status.message) == (state, message)


def test_a_run_that_does_not_fail_is_left_as_it_is(folder: Path) -> None:
    before = status_of(folder)
    with failure_told(folder):
        pass
    assert status_of(folder) == before


def test_the_first_of_several_processes_to_fail_says_why(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RetryableFailure), failure_told(folder):
        with pytest.raises(BadInput), failure_told(folder), monkeypatch.context() as patch:
            patch.setenv("RANK", "1")
            raise BadInput("out of memory")
        raise RetryableFailure("a peer has left")
    assert (status_of(folder).state, status_of(folder).message) == ("failed", "out of memory")


def test_another_process_that_is_stopped_says_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = status_of(folder)
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit), failure_told(folder):
        raise SystemExit(143)
    assert status_of(folder) == before


def test_an_earlier_failure_does_not_hide_the_next_one(folder: Path) -> None:
    for message in ("the first", "the second"):
        with pytest.raises(BadInput), failure_told(folder):
            raise BadInput(message)
    assert status_of(folder).message == "the second"


def test_a_status_that_cannot_be_read_is_replaced(folder: Path) -> None:
    (folder / "status.json").write_text("{", encoding="utf-8")
    with pytest.raises(BadInput), failure_told(folder):
        raise BadInput("no")
    assert (status_of(folder).run_id, status_of(folder).state) == ("sky-1", "failed")


def test_on_a_full_disk_the_first_error_is_the_one_to_see(tmp_path: Path) -> None:
    # A file where the folder should be refuses to be written into, as a full disk does.
    (tmp_path / "sky-1").write_text("", encoding="utf-8")
    with pytest.raises(BadInput, match="the first"), failure_told(tmp_path / "sky-1"):
        raise BadInput("the first")


def test_a_bar_that_was_cut_short_ends_its_line(
    folder: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(Loop, "evaluate", _fail)
    loop, diary = make_loop(folder, tokenizer)
    with pytest.raises(BadInput):
        loop.train()
    diary.close()
    assert terminal.getvalue().endswith("\n")


def _fail(*_: object, **__: object) -> None:
    raise BadInput("no")
