"""A run that has no room, no memory or no number to go on with: what it says, and what it keeps."""

import re
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import load_file
from trainer_blows import stepping
from trainer_survival import Run, is_same, limit_file_size, limit_memory, make_run
from trainer_tiny import line, questions, save_base, tiny_llama
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hone_contract.errors import BadInput
from hone_trainer.plan import make_plan
from hone_trainer.train import train

# Each trains.
pytestmark = pytest.mark.chain

SPEC = """\
lora: {r: 4, dropout: 0.1}
training: {epochs: 4, learning_rate: 1e-2}
checkpoints: {save_steps: 2}
"""
ALL_LEARNED = "data: {train: data.jsonl, eval_fraction: 0}\n"


@pytest.fixture(scope="module")
def undisturbed(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = make_run(tmp_path_factory.mktemp("undisturbed") / "run", llama_folder, SPEC)
    run.end()
    return run


@pytest.fixture
def run(llama_folder: Path, tmp_path: Path) -> Run:
    return make_run(tmp_path / "run", llama_folder, SPEC)


# -- a full disk -----------------------------------------------------------------------------------


def stop_at(run: Run, step: int) -> int:
    """Stop the run at this step or soon after it; the step of its checkpoint."""
    attempt = run.start()
    assert stepping(step, 0).comes(attempt)
    assert attempt.strike(signal.SIGTERM) == 75
    return run.checkpoints()[0]


def test_a_checkpoint_without_room_is_told_and_costs_nothing_else(run: Run, undisturbed: Run) -> None:
    before = stop_at(run, 5)
    biggest = max(path.stat().st_size for path in run.diary.glob(f"checkpoints/step-{before}/*"))
    attempt = run.start(before=partial(limit_file_size, biggest - 1))
    assert attempt.wait() == 75
    message = attempt.told().splitlines()[-1]
    assert message.startswith(f"error: checkpoint step-{before + 2 - before % 2} could not be written, ")
    assert f" MB are free in {run.diary / 'checkpoints'}: " in message.replace(
        "store/", f"{run.folder}/store/"
    )
    assert message.endswith(f"run the same command again; the newest checkpoint is step-{before}")
    run.check_whole()
    assert run.checkpoints()[0] == before
    assert not list(run.diary.glob("checkpoints/*.partial-*"))
    assert run.status().state == "stopped"
    run.end()
    is_same(run, undisturbed)


@pytest.fixture
def small_disk(run: Run) -> Iterator[Path]:
    """Where the run has its store."""
    disk = run.folder / "store"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "hone-test", disk], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"a file system cannot be mounted here: {mounted.stderr.decode()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.full
def test_whatever_the_room_runs_out_for_it_goes_on_when_there_is_more(
    run: Run, small_disk: Path, undisturbed: Run
) -> None:
    needed = sum(path.stat().st_size for path in undisturbed.store.root.rglob("*"))
    codes = []
    for size in range(64, 2 * needed // 1024, 32):
        subprocess.run(["mount", "-o", f"remount,size={size}k", small_disk], check=True)
        attempt = run.start()
        codes.append(attempt.wait())
        print(size, codes[-1], attempt.told().splitlines()[-1][:300])
        run.check_whole()
        if codes[-1] == 0:
            break
    assert codes[-1] == 0
    assert set(codes[:-1]) == {75}
    is_same(run, undisturbed)


# -- a loss that is no number ----------------------------------------------------------------------


def base_with(
    folder: Path, tokenizer: PreTrainedTokenizerFast, *, nan_token: str = "", head: float = 1
) -> Path:
    """A base that has no number for a token; or one whose output head is so much larger."""
    model = tiny_llama(len(tokenizer))
    with torch.no_grad():
        if nan_token:
            [number] = tokenizer(nan_token, add_special_tokens=False)["input_ids"]
            model.get_input_embeddings().weight[number] = torch.nan
        model.get_output_embeddings().weight.mul_(head)
    return save_base(folder, model, tokenizer)


def test_a_loss_that_is_no_number_ends_the_run_at_its_step(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    base = base_with(tmp_path / "base", tokenizer, nan_token="~")
    lines = questions(12)
    lines[7] = line(("user", "What is ~?"), ("assistant", "The sky is blue."))
    spec = ALL_LEARNED + "training: {epochs: 1, batch_size: 1}\ncheckpoints: {save_steps: 1, keep: 99}\n"
    run = make_run(tmp_path / "run", base, spec, lines)
    attempt = run.start()
    assert attempt.wait() == 65
    step = len(run.steps()) + 1
    message = attempt.told().splitlines()[-1]
    assert step > 1
    assert message == (
        f"error: training diverged: in step {step} the loss is nan on data.jsonl:8; lower "
        "training.learning_rate 0.0002, or look at these records; earlier checkpoints stay"
    )
    status = run.status()
    assert (status.state, f"error: {status.message}") == ("failed", message)
    run.check_whole()
    assert run.checkpoints() == list(range(step - 1, 0, -1))
    for each in run.checkpoints():
        weights = load_file(run.diary / "checkpoints" / f"step-{each}" / "adapter_model.safetensors")
        assert all(bool(tensor.isfinite().all()) for tensor in weights.values())
    again = run.start()
    assert again.wait() == 65
    assert again.told().splitlines()[-1] == message
    assert [event.data["step"] for event in run.events("resumed")] == [step - 1]


def refused(folder: Path, base: Path, spec: str) -> str:
    """Why a run ends that learns one record a step, in this process."""
    run = make_run(folder / "run", base, spec + "\n", questions(4))
    with pytest.raises(BadInput) as caught:
        train(make_plan(run.folder / "run.yaml", None, run.store), run.store)
    assert run.status().state == "failed"
    assert run.checkpoints() == []
    return str(caught.value)


def test_a_base_that_has_no_number_is_told_by_the_first_evaluation(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    base = base_with(tmp_path / "base", tokenizer, nan_token="?")
    told = refused(tmp_path, base, "data: {train: data.jsonl, eval_count: 1}")
    assert re.fullmatch(
        r"training diverged: before the first step the evaluation loss is nan on data\.jsonl:[1-4]; nothing "
        "was learned yet, so look at these records, and at the weights of the base",
        told,
    )


def test_gradients_beyond_all_numbers_are_not_applied(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Their loss is still a number; what they make of the weights would be seen a step later."""
    base = base_with(tmp_path / "base", tokenizer, head=1e25)
    told = refused(tmp_path, base, ALL_LEARNED + "training: {epochs: 1, batch_size: 1}")
    assert re.match(
        r"training diverged: in step 1 the norm of the gradients is inf on data\.jsonl:[1-4];", told
    )


# -- no memory -------------------------------------------------------------------------------------


def test_too_little_memory_is_told_with_what_would_take_less(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    base = save_base(tmp_path / "base", wide_llama(len(tokenizer)), tokenizer)
    random = Random(1)
    long = [line(("user", "Go on."), ("assistant", str(random.getrandbits(1200)))) for _ in range(24)]
    spec = ALL_LEARNED + "training: {batch_size: 24, tokens_per_pass: 16384}\n"
    run = make_run(tmp_path / "run", base, spec, long)
    attempt = run.start(before=partial(limit_memory, 500_000_000))
    assert attempt.wait() == 78, attempt.told()
    message = attempt.told().splitlines()[-1]
    assert re.match(
        rf"error: the memory was not enough to train run {run.id}: the run takes about [\d.]+ [MG]B, "
        r"with training\.gradient_checkpointing: true [\d.]+ [MG]B, ",
        message,
    ), message
    assert (run.status().state, f"error: {run.status().message}") == ("failed", message)
    run.check_whole()


def wide_llama(vocabulary: int) -> LlamaForCausalLM:
    """Of so many tokens it keeps more than a gigabyte for the backward pass."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=512,
        eos_token_id=2,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config)
