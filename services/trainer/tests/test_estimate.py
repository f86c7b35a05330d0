"""What a run will take: of a well-known base, by the command, and against real trainings."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hollow_bases import QWEN2_7B, plan_of, write_headers
from trainer_cli import refusal, run_trainer
from trainer_tiny import line, preference, preferences, questions, save_base, write_lines
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hone_contract.errors import BadConfiguration
from hone_contract.events import Reporter
from hone_contract.store import Store
from hone_trainer.plan import Plan, make_plan
from hone_trainer.sizing.estimate import METHODS, check_fits, estimate, readable, what_to_lower
from hone_trainer.sizing.machine import CARDS, Device, shared_by
from hone_trainer.sizing.tables import as_text
from hone_trainer.training.tokens import tokenise

GB = 10**9
H100 = Device("NVIDIA H100", True, CARDS[2].memory)


@pytest.fixture
def seven(tmp_path: Path) -> Plan:
    """As a well-known guide trains Qwen2-7B: rank 64, 2,048 tokens, 2 records 4 times, 3 epochs."""
    training = {"batch_size": 2, "gradient_accumulation_steps": 4, "max_length": 2048, "epochs": 3}
    lora = {"r": 64, "alpha": 128, "target_modules": "projections"}
    return plan_of(tmp_path, QWEN2_7B, [2048] * 1000, training=training, lora=lora)


# -- a well-known base -----------------------------------------------------------------------------


def test_the_memory_of_a_7b_model_is_as_its_guide_says(seven: Plan) -> None:
    """Which says: 80 GB or more in full, about 16 GB with LoRA, about 10 GB with QLoRA."""
    found = estimate(seven, H100)
    assert found.parameters == 7_615_616_512
    assert found.trainable == {"lora": 161_480_704, "qlora": 161_480_704, "full": 7_615_616_512}
    totals = {method: found.here[method].total / GB for method in METHODS}
    assert 80 < totals["full"]
    assert 16 < totals["lora"] < 21
    assert 8 < totals["qlora"] < 12
    # Two bytes a parameter, and what the adapters are.
    assert found.here["lora"].weights == pytest.approx(15.23 * GB + 6 * 161_480_704, rel=1e-3)
    assert found.here["full"].optimizer == 8 * 7_615_616_512


def test_gpus_are_counted_for_each_method(seven: Plan) -> None:
    found = estimate(seven, H100).gpus
    assert found["24 GB"]["lora"] == found["24 GB"]["qlora"] == found["141 GB"]["full"] == 1
    assert found["80 GB"]["full"] == 2
    assert 6 <= (found["24 GB"]["full"] or 0) <= 8


def test_weights_in_4_bits_are_not_shared_among_gpus(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, QWEN2_7B | {"num_hidden_layers": 280}, [2048] * 10)
    found = estimate(plan, H100).gpus["24 GB"]
    assert found["qlora"] is None
    assert found["lora"] is not None


def test_steps_and_tokens_are_those_of_the_guide(seven: Plan) -> None:
    work = estimate(seven, H100).work
    assert (work.steps, work.tokens) == (375, 3 * 2_048_000)


def test_the_disk_is_for_adapter_checkpoints_and_merged_model(seven: Plan) -> None:
    found = estimate(seven, H100).disk
    assert found.result == 4 * 161_480_704
    assert (found.checkpoint, found.checkpoints) == (12 * 161_480_704, 3)
    assert found.merged == 2 * 7_615_616_512
    assert found.total == found.result + 3 * found.checkpoint + found.tokens + found.merged
    best = seven.spec.model_validate(
        seven.spec.model_dump() | {"training": {"load_best_model_at_end": True}, "checkpoints": {"keep": 5}}
    )
    assert estimate(Plan(best, seven.base, seven.dataset, "", "best"), H100).disk.checkpoints == 7


# -- what does not fit -----------------------------------------------------------------------------


def test_a_run_that_fits_is_let_through(seven: Plan) -> None:
    check_fits(seven, H100)


def test_a_run_that_cannot_fit_is_refused_with_what_to_lower(seven: Plan) -> None:
    small = Device("NVIDIA T4", True, 15 * GB)
    with pytest.raises(BadConfiguration) as caught:
        check_fits(seven, small)
    assert caught.value.exit_code == 78
    totals = {method: readable(estimate(seven, small).here[method].total) for method in METHODS}
    assert str(caught.value).startswith("run a-run does not fit: NVIDIA T4 has 15.0 GB of memory; ")
    assert f"the run takes about {totals['lora']}, " in str(caught.value)
    assert f"with method: qlora {totals['qlora']}" in str(caught.value)
    assert "full" not in str(caught.value)


def test_gpus_that_share_a_model_hold_more(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, QWEN2_7B, [512] * 10, method="full")
    training = plan.spec.training.model_copy(update={"sharding": "full"})
    shared = replace(plan, spec=plan.spec.model_copy(update={"training": training}))
    one = Device("NVIDIA H100", True, CARDS[2].memory)
    four = shared_by(one, processes=4, here=4)
    for alone in (plan, shared):
        with pytest.raises(BadConfiguration, match=r"method: lora .* method: qlora") as caught:
            check_fits(alone, one)
        assert "sharding" not in str(caught.value)
    takes = estimate(shared, four).here["full"]
    with pytest.raises(BadConfiguration, match=f"with training.sharding: full {readable(takes.total)}, "):
        check_fits(plan, four)
    check_fits(shared, four)
    whole = estimate(plan, four).here["full"]
    assert whole.total == estimate(plan, one).here["full"].total
    assert takes.shardable == pytest.approx(whole.shardable / 4, abs=4)
    assert takes.total - takes.shardable == whole.total - whole.shardable
    assert estimate(shared, four).gpus == estimate(plan, one).gpus


def test_processes_on_cpus_share_its_memory_and_not_the_model(tmp_path: Path) -> None:
    cpu = Device("a CPU", False, 64 * GB)
    assert shared_by(cpu, processes=4, here=2) == Device("a CPU", False, 32 * GB, 4)
    plan = plan_of(tmp_path, QWEN2_7B, [512] * 10, training={"sharding": "full"})
    two = estimate(plan, shared_by(cpu, 2, 2))
    assert two.here["lora"] == estimate(plan, cpu).here["lora"]
    assert (estimate(plan, cpu).fits, two.fits) == (True, False)
    assert (estimate(plan, cpu).work.steps, two.work.steps) == (9, 6)


def test_each_remedy_takes_what_it_says(seven: Plan) -> None:
    """On a CPU there are more: there the whole forward pass is kept."""
    cpu = Device("a CPU", False, 8 * GB)
    told = what_to_lower(seven, cpu)
    for name, value in (("gradient_checkpointing", True), ("tokens_per_pass", 1024)):
        training = seven.spec.training.model_copy(update={name: value})
        spec = seven.spec.model_copy(update={"training": training})
        then = estimate(Plan(spec, seven.base, seven.dataset, "", "other"), cpu).here["lora"].total
        now = estimate(seven, cpu).here["lora"].total
        assert (f"training.{name}: {str(value).lower()} {readable(then)}" in told) == (then < 0.97 * now)
    assert "data.max_tokens: 1024, which leaves longer records out, " in told


# -- the command -----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, qwen_folder: Path) -> Path:
    """A working folder in which everything is right."""
    (tmp_path / "model").symlink_to(qwen_folder)
    (tmp_path / "run.yaml").write_text("model: {name: ./model}\n", encoding="utf-8")
    write_lines(tmp_path / "data.jsonl", questions(24))
    return tmp_path


@pytest.mark.chain
def test_the_command_says_what_a_run_will_take_and_makes_none(folder: Path) -> None:
    done = run_trainer(folder, "plan", "run.yaml", "--data", "data.jsonl")
    assert done.code == 0, done.err
    plan = make_plan(folder / "run.yaml", folder / "data.jsonl", Store(folder / "store"))
    assert done.out.startswith(f"run {plan.run_id} on tiny-qwen, ")
    for told in (
        "*lora",
        "activations",
        "optimizer",
        "24 GB (RTX 4090",
        "H200",
        "\nsteps ",
        "\ntokens ",
        "\ndisk ",
    ):
        assert told in done.out
    assert not (folder / "store" / "runs").exists()
    # Sizes come from headers; the model is never made.
    assert not done.imported & {"peft", "trl"}


@pytest.mark.chain
def test_the_command_says_the_same_as_json(folder: Path) -> None:
    done = run_trainer(folder, "plan", "run.yaml", "--data", "data.jsonl", "--json")
    found = json.loads(done.out)
    assert found["fits"] is True
    memory = found["here"]["full"]
    assert memory.pop("total") == sum(memory.values()) > 8 * found["parameters"]
    assert found["gpus"]["24 GB"] == {"lora": 1, "qlora": 1, "full": 1}
    assert found["work"]["steps"] == 3 * -(-found["work"]["records"] // 4)
    assert found["disk"]["total"] > found["disk"]["result"] > 0


@pytest.mark.chain
def test_the_command_refuses_what_no_machine_has_room_for(
    folder: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    (folder / "huge").mkdir()
    tokenizer.save_pretrained(folder / "huge")
    write_headers(folder / "huge", QWEN2_7B | {"hidden_size": 35840, "intermediate_size": 189440})
    (folder / "run.yaml").write_text("model: {name: ./huge}\nmethod: full\n", encoding="utf-8")
    done = run_trainer(folder, "plan", "run.yaml", "--data", "data.jsonl")
    assert done.code == 78
    assert "*full" in done.out
    *_, error = done.err.splitlines()
    assert error.startswith("error: run huge-tuned-")
    assert "does not fit" in error
    assert "with training.optimizer: adamw_8bit" in error


def test_a_wrong_spec_is_told_before_anything_heavy(folder: Path) -> None:
    (folder / "run.yaml").write_text("model: {name: ./model}\nmethod: lorra\n", encoding="utf-8")
    assert "method" in refusal(run_trainer(folder, "plan", "run.yaml", "--data", "data.jsonl"), 78)


def test_pairs_are_planned_for_what_can_learn_from_them(folder: Path) -> None:
    """Both answers share a pass; the base's own pass over them is told, and takes no more memory."""
    write_lines(folder / "pairs.jsonl", preferences(24))
    (folder / "run.yaml").write_text("model: {name: ./model}\nobjective: dpo\n", encoding="utf-8")
    plan = make_plan(folder / "run.yaml", folder / "pairs.jsonl", Store(folder / "store"))
    found = estimate(plan)
    assert set(found.here) == set(found.trainable) == {"lora", "qlora"}
    report = json.loads((plan.dataset.path / "report.json").read_text(encoding="utf-8"))
    tokens = tokenise(plan, Store(folder / "store"), Reporter("trainer")).train
    assert report["tokens"]["per_epoch"] == tokens.tokens == found.work.tokens_an_epoch
    assert found.work.longest == max(map(sum, tokens.lengths))
    assert found.work.longest_conversation == max(map(max, tokens.lengths))
    told = as_text(found)
    assert f"pairs      {len(tokens)} to learn from" in told and "each also read by the base" in told
    assert "full" not in told.partition("memory on")[0]


# -- against real trainings ------------------------------------------------------------------------

# Large enough for the model to take more than the libraries; 64.8 million parameters.
_MIDDLE = LlamaConfig(
    vocab_size=16000,
    hidden_size=640,
    intermediate_size=1728,
    num_hidden_layers=12,
    num_attention_heads=10,
    num_key_value_heads=5,
    tie_word_embeddings=True,
    bos_token_id=None,
    eos_token_id=2,
    pad_token_id=0,
)
_ANSWERS = {"short": 40, "long": 160}


@pytest.fixture(scope="module")
def middle(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A folder with a base and data of two lengths, about 90 and 280 tokens a record."""
    folder = tmp_path_factory.mktemp("middle")
    save_base(folder / "base", LlamaForCausalLM(_MIDDLE), tokenizer)
    for name, words in _ANSWERS.items():
        answer = "sky blue grass green colour ".split() * (words // 5)
        lines = [line(("user", f"What is thing {n}?"), ("assistant", " ".join(answer))) for n in range(10)]
        write_lines(folder / f"{name}.jsonl", lines)
    pairs = [preference(f"What is thing {n}?", "sky blue grass " * 40, "green " * 80) for n in range(10)]
    write_lines(folder / "pairs.jsonl", pairs)
    return folder


@pytest.mark.chain
@pytest.mark.parametrize(
    ("method", "data", "options"),
    [
        ("lora", "short", {"batch_size": 8}),
        pytest.param("lora", "pairs", {"batch_size": 4, "tokens_per_pass": 1280}, marks=pytest.mark.full),
        ("lora", "long", {"batch_size": 4, "tokens_per_pass": 1280}),
        ("full", "short", {"batch_size": 4, "tokens_per_pass": 256}),
    ],
    ids=["lora", "lora, preference pairs", "lora, long records", "full"],
)
def test_the_memory_of_a_training_is_as_planned(
    middle: Path, method: str, data: str, options: dict[str, Any]
) -> None:
    """Most memory that the real command holds on a CPU, within 20 % of what plan says."""
    spec = {
        "model": {"name": "./base"},
        "method": method,
        "objective": "dpo" if data == "pairs" else "sft",
        "data": {"train": f"{data}.jsonl", "eval_count": 1},
        "training": {"max_steps": 2, **options},
    }
    (middle / "run.json").write_text(json.dumps(spec), encoding="utf-8")
    plan = make_plan(middle / "run.json", None, Store(middle / "store"))
    planned = estimate(plan, Device("a CPU", False, 8 * GB))
    memory = planned.here[planned.method]
    peak = peak_of(middle, "train", "run.json")
    print(f"planned {memory.total / 1e6:.0f} MB, held {peak / 1e6:.0f} MB: {memory}")
    assert memory.total - memory.process > memory.process
    assert peak == pytest.approx(memory.total, rel=0.2)


def peak_of(folder: Path, *arguments: str) -> int:
    """Bytes that a command held in memory at its most; it must succeed."""
    hidden = {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "HONE_STORE": "store"}
    with (folder / "told").open("w+") as told:
        process = subprocess.Popen(
            [sys.executable, "-m", "hone_trainer", *arguments],
            cwd=folder,
            env=os.environ | hidden,
            stdout=told,
            stderr=told,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        told.seek(0)
        assert process.returncode == 0, told.read()
    return usage.ru_maxrss * 1024
