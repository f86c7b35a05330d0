"""A run that is killed and stopped ends with the very bytes of one that was left alone."""

import shutil
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from trainer_blows import blows, planned, probing, stepping, survive
from trainer_survival import RECORDS, Run, is_same, make_run
from trainer_tiny import preferences

# Dropout and noise, so that the state of every random generator shows in the result.
SPECS = {
    "adamw": """\
lora: {r: 4, dropout: 0.1}
training: {epochs: 6, learning_rate: 1e-2, scheduler: cosine, warmup_steps: 3, neftune_noise_alpha: 5}
checkpoints: {save_steps: 2}
""",
    # Of a rank at which bitsandbytes keeps the averages in 8 bits; stops early.
    "best": """\
lora: {r: 128, dropout: 0.1}
training: {epochs: 12, learning_rate: 0.1, optimizer: adamw_8bit, neftune_noise_alpha: 5,
           eval_steps: 3, early_stopping_patience: 3}
checkpoints: {save_steps: 2}
""",
    "full": """\
method: full
training: {epochs: 6, learning_rate: 1e-3, neftune_noise_alpha: 5}
checkpoints: {save_steps: 2, keep: 1}
""",
    "qlora": """\
method: qlora
lora: {r: 128, dropout: 0.1, use_dora: true}
training: {epochs: 6, learning_rate: 1e-2, optimizer: adamw_8bit, neftune_noise_alpha: 5}
checkpoints: {save_steps: 2}
""",
    "dpo": """\
objective: dpo
lora: {r: 4, dropout: 0.1}
training: {epochs: 6, learning_rate: 1e-2, scheduler: cosine, warmup_steps: 3, early_stopping_patience: 9}
checkpoints: {save_steps: 2}
""",
}
LINES = {"dpo": preferences(RECORDS)}

Undisturbed = Callable[[str], Run]


@pytest.fixture(scope="module")
def undisturbed(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """A run of a spec that is left alone."""

    @cache
    def run(name: str) -> Run:
        folder = tmp_path_factory.mktemp("undisturbed") / name
        made = make_run(folder, llama_folder, SPECS[name], LINES.get(name))
        made.end(real=name == "adamw")
        return made

    return run


def last_step(run: Run) -> int:
    return run.metrics()[-1].step


def best_step(run: Run) -> int:
    """Of the lowest evaluation loss. Which it is may differ from one kind of CPU to another."""
    losses = {line.step: line.eval_loss for line in run.metrics() if line.eval_loss is not None}
    return min(losses, key=losses.__getitem__)


@pytest.fixture
def new_run(llama_folder: Path, tmp_path: Path) -> Undisturbed:
    return lambda name: make_run(tmp_path / name, llama_folder, SPECS[name], LINES.get(name))


@pytest.mark.chain
@pytest.mark.parametrize("name", ["adamw", "best", "dpo"])
def test_a_run_that_is_struck_ends_as_one_that_is_not(
    name: str, undisturbed: Undisturbed, new_run: Undisturbed
) -> None:
    run = new_run(name)
    survive(run, blows(7, 3, 2, last_step(undisturbed(name))))
    is_same(run, undisturbed(name))


@pytest.mark.chain
def test_the_newest_checkpoints_stay_and_the_best(undisturbed: Undisturbed) -> None:
    assert undisturbed("adamw").checkpoints() == [36, 34]
    run = undisturbed("best")
    # Three evaluations without a lower loss, three steps apart; saved every second step as well.
    assert last_step(run) == best_step(run) + 9 < 72
    assert run.checkpoints() == [last_step(run), (last_step(run) - 1) // 2 * 2, best_step(run)]


@pytest.mark.full
@pytest.mark.parametrize("name", ["adamw", "best", "full", "qlora", "dpo"])
def test_twenty_kills_and_five_stops(name: str, undisturbed: Undisturbed, new_run: Undisturbed) -> None:
    run = new_run(name)
    survive(run, blows(11, 20, 5, last_step(undisturbed(name))), real=name == "adamw")
    is_same(run, undisturbed(name))


@pytest.mark.chain
def test_a_stop_while_libraries_are_imported(new_run: Undisturbed) -> None:
    run = new_run("adamw")
    attempt = run.start(real=True)
    assert planned(1).comes(attempt)
    assert attempt.strike(signal.SIGTERM) == 75
    assert attempt.told().endswith(
        "error: stopped by SIGTERM; the same command goes on from the newest checkpoint\n"
    )
    assert not run.diary.exists()


@pytest.mark.chain
def test_a_finished_run_that_is_not_sealed_is_not_trained_again(
    undisturbed: Undisturbed, new_run: Undisturbed
) -> None:
    """Also after early stopping, which Trainer forgets."""
    run = new_run("best")
    attempt = run.start()
    assert probing(0).comes(attempt)
    assert attempt.strike(signal.SIGKILL) == -signal.SIGKILL
    lines = run.metrics()
    told = run.end()
    assert '"event":"probing"' in told and '"event":"checkpoint_saved"' not in told
    assert run.metrics() == lines
    is_same(run, undisturbed("best"))


@pytest.mark.chain
def test_a_second_signal_does_not_wait_for_the_step(new_run: Undisturbed) -> None:
    run = new_run("adamw")
    attempt = run.start()
    assert stepping(3, 0).comes(attempt)
    attempt.process.terminate()
    assert attempt.strike(signal.SIGTERM) == 75
    run.check_whole()
    assert run.status().state == "stopped"


# -- checkpoints that were harmed between two attempts ----------------------------------------------


@pytest.fixture(scope="module")
def stopped(llama_folder: Path, undisturbed: Undisturbed, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of `best` that was stopped after one evaluation without a lower loss; not to be changed."""
    run = make_run(tmp_path_factory.mktemp("stopped") / "run", llama_folder, SPECS["best"])
    attempt = run.start()
    assert stepping(best_step(undisturbed("best")) + 4, 0).comes(attempt)
    assert attempt.strike(signal.SIGTERM) == 75
    return run


@pytest.fixture
def copy(stopped: Run, tmp_path: Path) -> Run:
    """Of it, with its store elsewhere."""
    shutil.copytree(stopped.folder, tmp_path / "copy")
    return Run(tmp_path / "copy", stopped.id)


def flip_a_bit(folder: Path) -> None:
    file = folder / "optimizer.pt"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut_short(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def lose_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


@pytest.mark.chain
@pytest.mark.parametrize("damage", [flip_a_bit, cut_short, lose_the_manifest])
def test_a_damaged_checkpoint_is_left_out(
    copy: Run, damage: Callable[[Path], None], undisturbed: Undisturbed
) -> None:
    newest, before, *_ = copy.checkpoints()
    damage(copy.checkpoint(newest))
    half = copy.checkpoint(newest + 1).with_name(f"step-{newest + 1}.partial-0123456789ab")
    shutil.copytree(copy.checkpoint(before), half)
    copy.end()
    assert [event.data["step"] for event in copy.events("checkpoint_skipped")] == [newest]
    assert copy.events("resumed")[-1].data["step"] == before
    is_same(copy, undisturbed("best"))


@pytest.mark.chain
def test_a_store_may_be_moved_with_its_best_checkpoint(copy: Run, undisturbed: Undisturbed) -> None:
    copy.store.root.rename(copy.folder / "elsewhere")
    moved = Run(copy.folder, copy.id, "elsewhere")
    moved.end()
    is_same(moved, undisturbed("best"))


@pytest.mark.chain
def test_without_its_best_checkpoint_a_run_begins_anew_and_says_so(
    copy: Run, undisturbed: Undisturbed
) -> None:
    flip_a_bit(copy.checkpoint(best_step(undisturbed("best"))))
    steps = copy.checkpoints()
    copy.end()
    assert [event.data["step"] for event in copy.events("checkpoint_skipped")] == steps
    assert not copy.events("resumed")
    is_same(copy, undisturbed("best"))
