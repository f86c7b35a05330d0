"""Two processes train one model as one process would, and end together whatever happens to one of them."""

import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from trainer_cli import refusal, run_trainer
from trainer_tiny import line, preferences, save_base, tiny_llama, write_lines
from trainer_together import Run, apart, make_run, second_runs_out_of_memory
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from hone_contract.errors import BadConfiguration
from hone_trainer.plan import make_plan
from hone_trainer.train import train

# 21 records in steps of 4: two processes share a last step of one record. Passes are small, so that steps
# have several, and not all processes equally many.
SHARED = "epochs: 3, tokens_per_pass: 96, learning_rate: 1e-2"
LORA = "lora: {r: 4, alpha: 8}\n"
STEPS = 18


def spec(batch: int, more: str = "", top: str = LORA) -> str:
    return f"{top}training: {{batch_size: {batch}, {SHARED}{more}}}\n"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, llama_folder: Path) -> Run:
    run = make_run(tmp_path_factory.mktemp("alone"), llama_folder, spec(4))
    assert run.together(1) == [0], run.told(0)
    return run


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, llama_folder: Path) -> Run:
    run = make_run(tmp_path_factory.mktemp("pair"), llama_folder, spec(2))
    assert run.together() == [0, 0], run.told(0) + run.told(1)
    return run


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, llama_folder: Path) -> Run:
    run = make_run(tmp_path_factory.mktemp("shards"), llama_folder, spec(2, ", sharding: full"))
    assert run.together() == [0, 0], run.told(0) + run.told(1)
    return run


def is_alike(run: Run, other: Run) -> None:
    """Both learned the same in the same steps, but for the order in which numbers are added."""
    mine, theirs = run.made.manifest.metrics, other.made.manifest.metrics
    assert mine["eval_loss_before"] == pytest.approx(theirs["eval_loss_before"], abs=1e-4)
    assert mine["eval_loss_after"] == pytest.approx(theirs["eval_loss_after"], abs=1e-4)
    assert mine["eval_loss_after"] < mine["eval_loss_before"] / 2
    assert mine["tokens"] == theirs["tokens"]
    for step, expected in zip(run.steps, other.steps, strict=True):
        assert (step.step, step.tokens) == (expected.step, expected.tokens)
        assert (step.loss, step.grad_norm) == pytest.approx((expected.loss, expected.grad_norm), rel=1e-3)


# -- the same model --------------------------------------------------------------------------------


@pytest.mark.chain
def test_two_processes_learn_what_one_does(alone: Run, pair: Run) -> None:
    assert len(pair.steps) == STEPS
    is_alike(pair, alone)
    assert apart(pair, alone) < 1e-3


@pytest.mark.chain
def test_only_the_first_process_tells_anything(pair: Run) -> None:
    assert pair.told(0).splitlines()[-1] == pair.made.manifest.id
    assert pair.told(1) == ""
    assert (pair.status.state, pair.status.step) == ("succeeded", STEPS)
    assert not pair.store.partials()


@pytest.mark.chain
def test_every_process_leaves_its_random_numbers_in_a_checkpoint(pair: Run) -> None:
    names = {path.name for path in (pair.diary / "checkpoints" / f"step-{STEPS}").iterdir()}
    assert names >= {"rng_state_0.pth", "rng_state_1.pth", "optimizer.pt", "adapter_model.safetensors"}


@pytest.mark.chain
def test_sharded_weights_learn_what_whole_ones_do(alone: Run, shards: Run) -> None:
    is_alike(shards, alone)
    assert apart(shards, alone) < 1e-3


@pytest.mark.chain
def test_each_process_holds_half_of_a_sharded_model(shards: Run) -> None:
    checkpoint = shards.diary / "checkpoints" / f"step-{STEPS}"
    whole = {name: weight.shape for name, weight in shards.weights.items()}
    for rank in range(2):
        with safe_open(checkpoint / f"shard_{rank}.safetensors", "pt") as part:
            held = [part.get_slice(name).get_shape() for name in part.keys() if name.startswith("weight.")]
        assert sum(map(_size, held)) == sum(map(_size, whole.values())) // 2


def _size(shape: Any) -> int:
    return int(torch.Size(shape).numel())


@pytest.mark.chain
def test_an_adapter_that_was_sharded_opens_as_any_other(shards: Run, alone: Run, llama_folder: Path) -> None:
    ids = torch.arange(3, 40)[None]
    base: Any = AutoModelForCausalLM.from_pretrained(llama_folder)
    logits = {None: base(input_ids=ids).logits}
    for run in (shards, alone):
        model = PeftModel.from_pretrained(base, run.made.path).eval()
        logits[run] = model(input_ids=ids).logits
        base = model.unload()
    assert torch.allclose(logits[shards], logits[alone], atol=1e-2)
    assert not torch.allclose(logits[shards], logits[None], atol=1)
    merged = PeftModel.from_pretrained(base, shards.made.path).merge_and_unload()
    assert torch.allclose(merged(input_ids=ids).logits, logits[shards], atol=1e-4)


@pytest.mark.chain
@pytest.mark.parametrize("sharding", ["none", "full"])
def test_whole_weights_that_two_processes_learn(
    tmp_path: Path, qwen_folder: Path, tokenizer: PreTrainedTokenizerFast, sharding: str
) -> None:
    """Of a base with tied embeddings, kept in bfloat16, in passes that are computed twice."""
    base = AutoModelForCausalLM.from_pretrained(qwen_folder, dtype=torch.bfloat16)
    save_base(tmp_path / "base", base, tokenizer)
    runs = [make_run(tmp_path / name, tmp_path / "base", "") for name in ("one", "two")]
    for run, batch, more in zip(runs, (4, 2), ("", f", sharding: {sharding}"), strict=True):
        text = spec(
            batch, f", gradient_checkpointing: true, load_best_model_at_end: true{more}", "method: full\n"
        )
        (run.folder / "run.yaml").open("a", encoding="utf-8").write(text)
    one, two = runs
    assert one.together(1) == [0], one.told(0)
    assert two.together(2) == [0, 0], two.told(0)
    is_alike(two, one)
    assert {weight.dtype for weight in two.weights.values()} == {torch.bfloat16}
    assert apart(two, one) < 1e-2
    assert two.made.manifest.kind == "weights"


@pytest.mark.chain
def test_two_processes_learn_from_pairs_what_one_does(tmp_path: Path, llama_folder: Path) -> None:
    """Also where neither has all of the model, with or without the adapter."""
    runs = {}
    for name, batch, more in (("one", 4, ""), ("two", 2, ""), ("shards", 2, ", sharding: full")):
        # What is beside the decoder's layers is split otherwise than they are.
        top = "objective: dpo\nlora: {r: 4, alpha: 8, modules_to_save: [lm_head]}\n"
        runs[name] = make_run(tmp_path / name, llama_folder, spec(batch, more, top))
        write_lines(runs[name].folder / "data.jsonl", preferences(25))
    one = runs.pop("one")
    assert one.together(1) == [0], one.told(0)
    for run in runs.values():
        assert run.together() == [0, 0], run.told(0) + run.told(1)
        is_alike(run, one)
        assert apart(run, one) < 1e-3
        for step, expected in zip(run.steps, one.steps, strict=True):
            assert dict(step.rewards or ()) == pytest.approx(dict(expected.rewards or ()), abs=1e-3)


# -- stopping and going on -------------------------------------------------------------------------


def drill(tmp_path: Path, base: Path, more: str = "") -> tuple[Run, Run]:
    """Two runs that are the same, one of them done. Dropout shows the state of every random generator."""
    text = spec(2, more, "lora: {r: 4, dropout: 0.1}\n").replace("epochs: 3", "epochs: 9")
    left, stopped = (make_run(tmp_path / name, base, text) for name in ("left", "stopped"))
    assert left.together() == [0, 0], left.told(0)
    return left, stopped


def is_stopped(run: Run, told: str) -> None:
    step = run.status.step
    assert (run.status.state, len(run.steps)) == ("stopped", step)
    assert re.findall("error: .*", told) == [
        f"error: stopped at step {step}; the same command goes on from there"
    ]


def is_same(run: Run, other: Run) -> None:
    assert apart(run, other) == 0
    assert [each.loss for each in run.steps] == [each.loss for each in other.steps]


@pytest.mark.chain
def test_a_command_that_was_stopped_ends_with_the_bytes_of_one_that_was_not(
    tmp_path: Path, llama_folder: Path
) -> None:
    left, stopped = drill(tmp_path, llama_folder)
    command = stopped.start("--processes", "2")
    command.reaches(step=9)
    members = command.members()
    command.process.send_signal(signal.SIGTERM)
    code, out, err = command.end()
    assert (code, out) == (75, ""), err
    is_stopped(stopped, err)
    assert len(members) == 2
    assert not any(Path(f"/proc/{member}").exists() for member in members)

    code, out, err = stopped.start("--processes", "2").end()
    assert (code, out) == (0, f"{left.made.manifest.id}\n"), err
    assert err.count('"dataset_ready"') == err.count('"resumed"') == 1
    is_same(stopped, left)


@pytest.mark.chain
def test_sharded_processes_stop_with_the_one_that_is_asked_to(tmp_path: Path, llama_folder: Path) -> None:
    left, stopped = drill(tmp_path, llama_folder, ", sharding: full, load_best_model_at_end: true")
    team = stopped.begin()
    stopped.reaches(9, lambda: all(member.is_alive() for member in team))
    os.kill(team[1].pid, signal.SIGTERM)
    for member in team:
        member.join(60)
    assert [member.exitcode for member in team] == [75, 75]
    is_stopped(stopped, stopped.told(0))
    assert stopped.told(1) == ""

    assert stopped.together() == [0, 0], stopped.told(0)
    is_same(stopped, left)


@pytest.mark.chain
def test_a_run_does_not_go_on_in_another_number_of_processes(pair: Run, tmp_path: Path) -> None:
    [made] = pair.store.root.glob("adapters/drill-*")
    hidden = made.rename(tmp_path / made.name)
    try:
        assert pair.together(1) == [78]
    finally:
        hidden.rename(made)
    assert "was begun on 2 processes" in pair.told(0)


# -- one of them fails -----------------------------------------------------------------------------


@pytest.mark.chain
def test_a_process_that_is_killed_ends_the_others(tmp_path: Path, llama_folder: Path) -> None:
    run = make_run(tmp_path / "run", llama_folder, spec(2).replace("epochs: 3", "epochs: 300"))
    command = run.start("--processes", "2")
    command.reaches(step=7)
    members = command.members()
    os.kill(members[1], signal.SIGKILL)
    began = time.monotonic()
    code, out, err = command.end()
    assert (code, out) == (128 + signal.SIGKILL, ""), err
    assert time.monotonic() - began < 15
    assert not Path(f"/proc/{members[0]}").exists()
    assert "process 1 of 2 was ended by SIGKILL" in err
    assert "process 0 of 2 lost another one" in err
    assert run.status.state == "stopped"


@pytest.mark.chain
def test_a_process_that_fails_says_why_for_all(tmp_path: Path, llama_folder: Path) -> None:
    run = make_run(tmp_path / "run", llama_folder, spec(2))
    assert run.together(before=second_runs_out_of_memory) == [75, 78]
    assert "error: the memory was not enough to train" in run.told(1)
    assert "error: process 0 of 2 lost another one" in run.told(0)
    assert run.status.state == "failed"
    assert run.status.message.startswith("the memory was not enough to train")


@pytest.mark.chain
@pytest.mark.parametrize("sharding", ["none", "full"])
def test_a_loss_that_is_no_number_in_one_process_stops_all_of_them(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, sharding: str
) -> None:
    model = tiny_llama(len(tokenizer))
    [token] = tokenizer("~")["input_ids"]
    model.model.embed_tokens.weight.data[token] = torch.nan
    save_base(tmp_path / "base", model, tokenizer)
    run = make_run(
        tmp_path / "run",
        tmp_path / "base",
        spec(2, f", sharding: {sharding}"),
        [line(("user", "What is ~?"), ("assistant", "No number."))],
    )
    text = (run.folder / "run.yaml").read_text(encoding="utf-8").replace("eval_count: 4", "eval: judge.jsonl")
    (run.folder / "run.yaml").write_text(text, encoding="utf-8")
    lines = (run.folder / "data.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (run.folder / "judge.jsonl").write_text("".join(lines[:4]), encoding="utf-8")
    (run.folder / "data.jsonl").write_text("".join(lines[4:]), encoding="utf-8")
    assert run.together() == [65, 65], run.told(0)
    [told] = re.findall("error: training diverged: .*", run.told(0))
    assert "data.jsonl:22" in told
    assert len(set(re.findall(r"data\.jsonl:\d+", told))) == 4
    assert run.told(1) == ""
    assert run.status.state == "failed"
    assert run.status.message in told


# -- who begins them -------------------------------------------------------------------------------


@pytest.mark.chain
def test_torchrun_begins_them_as_well(tmp_path: Path, llama_folder: Path, pair: Run) -> None:
    run = make_run(tmp_path / "run", llama_folder, spec(2))
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "hone_trainer")
    code, out, err = run.start(command=torchrun).end()
    assert (code, out) == (0, f"{pair.made.manifest.id}\n"), err
    assert apart(run, pair) == 0


@pytest.mark.chain
def test_what_was_trained_is_not_trained_again(pair: Run) -> None:
    before = pair.made
    assert pair.together() == [0, 0]
    assert "already_trained" in pair.told(0)
    assert (pair.made, pair.told(1)) == (before, "")


@pytest.mark.chain
def test_one_process_keeps_a_model_whole(tmp_path: Path, llama_folder: Path, alone: Run) -> None:
    run = make_run(tmp_path / "run", llama_folder, spec(4, ", sharding: full"))
    assert run.together(1) == [0], run.told(0)
    assert '"not_sharded"' in run.told(0)
    assert apart(run, alone) == 0


def test_a_script_that_torchrun_begins_is_told_how_to_do_it(
    tmp_path: Path, llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of its processes would otherwise wait for the others at another place."""
    run = make_run(tmp_path / "run", llama_folder, "training: {epochs: 1}\n")
    plan = make_plan(run.folder / "run.yaml", None, run.store)
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "x", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BadConfiguration, match="these processes have not met"):
        train(plan, run.store)


@pytest.mark.parametrize(
    ("wrong", "code", "told"),
    [("lora: {rank: 4}\n", 78, "did you mean"), ("data: nothing.jsonl\n", 78, "nothing.jsonl")],
)
def test_what_is_wrong_is_told_once_and_before_anything_begins(
    tmp_path: Path, llama_folder: Path, wrong: str, code: int, told: str
) -> None:
    (tmp_path / "run.yaml").write_text(f"model: {{name: {llama_folder}}}\n{wrong}", encoding="utf-8")
    assert told in refusal(run_trainer(tmp_path, "train", "run.yaml", "--processes", "2"), code)
