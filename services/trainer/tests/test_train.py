"""A whole run on a tiny model: once by the real command, and in this process what varies it."""

import json
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from trainer_cli import HEAVY, run_trainer
from trainer_run import BATCH, COMMAND, EPOCHS, HELD_OUT, RECORDS, Run
from trainer_tiny import HUB_NAME, bytes_of, conversation, line, questions, write_lines
from transformers import AutoModelForCausalLM, AutoTokenizer

from hone_contract.artifact import Artifact, open_artifact
from hone_contract.errors import BadConfiguration, BadInput
from hone_contract.events import Event, RunStatus, StepMetrics
from hone_contract.model_files import TOKENIZER_FILES, sha256_of
from hone_contract.probes import Probe, mean_delta, read_probes
from hone_contract.spec_file import load_run_spec
from hone_contract.store import Store
from hone_trainer.base import import_base, locate
from hone_trainer.plan import make_plan
from hone_trainer.train import train

pytestmark = pytest.mark.chain

STEPS = EPOCHS * -(-(RECORDS - HELD_OUT) // BATCH)


@pytest.fixture(scope="module")
def run(training: "Future[Run]") -> Run:
    return training.result()


# -- what the command leaves -----------------------------------------------------------------------


def test_the_run_id_is_all_that_is_printed(run: Run) -> None:
    plan = make_plan(run.folder / "run.yaml", run.folder / "data.jsonl", run.store)
    assert run.outcome.out == f"{plan.run_id}\n"
    assert run.id.startswith("sky-")


def test_the_run_id_is_written_to_the_file_that_was_named(run: Run) -> None:
    assert (run.folder / "run-id").read_text(encoding="utf-8") == run.outcome.out


def test_the_adapter_is_sealed_with_where_it_came_from(run: Run) -> None:
    manifest = run.adapter.manifest
    assert manifest.id == run.id
    assert manifest.lineage.keys() == {"base", "dataset", "spec"}
    assert manifest.lineage["base"] == run.base.source
    dataset = open_artifact(run.store.dataset(manifest.lineage["dataset"].id), "dataset", digests=True)
    assert manifest.lineage["dataset"] == dataset.source
    assert manifest.tools.keys() >= {"torch", "transformers", "trl", "peft"}
    assert not run.store.partials()


def test_the_base_is_as_it_was(run: Run, qwen_folder: Path) -> None:
    assert open_artifact(run.base.path, "base", digests=True) == run.base
    weights = "model.safetensors"
    assert (run.base.path / weights).read_bytes() == (qwen_folder / weights).read_bytes()


def test_the_tokenizer_travels_byte_for_byte(run: Run) -> None:
    ours = bytes_of(run.adapter.path, TOKENIZER_FILES)
    assert ours == bytes_of(run.base.path, TOKENIZER_FILES)
    assert ours.keys() >= {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}


def test_the_adapter_has_the_files_of_an_adapter_and_no_others(run: Run) -> None:
    tokenizer = bytes_of(run.base.path, TOKENIZER_FILES).keys()
    assert bytes_of(run.adapter.path).keys() - tokenizer == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "manifest.json",
        "probes.json",
    }


def test_the_adapter_names_its_base_and_no_path(run: Run) -> None:
    text = (run.adapter.path / "adapter_config.json").read_text(encoding="utf-8")
    config = json.loads(text)
    assert config["base_model_name_or_path"] == HUB_NAME
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (4, 8, 0.05)
    assert str(run.folder) not in text
    assert config["target_modules"] == sorted(config["target_modules"])


def test_every_linear_layer_but_the_head_has_an_adapter(run: Run) -> None:
    with safe_open(run.adapter.path / "adapter_model.safetensors", "numpy") as file:
        names = list(file.keys())
    assert len(names) == 2 * 2 * 7
    assert all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in names)


def test_the_held_out_loss_falls_and_is_recorded(run: Run) -> None:
    metrics = run.adapter.manifest.metrics
    assert 0 < metrics["eval_loss_after"] < metrics["eval_loss_before"] / 2
    assert metrics["tokens"] > 0
    assert metrics["tokens_per_second"] > 0


def test_nobody_is_asked_about_a_base_that_is_there(run: Run) -> None:
    assert run.asked == []


def test_the_metrics_have_a_line_a_step_and_one_an_evaluation(run: Run) -> None:
    lines = (run.diary / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    metrics = [StepMetrics.model_validate_json(each) for each in lines]
    steps = [each for each in metrics if each.loss is not None]
    evaluations = [each for each in metrics if each.eval_loss is not None]
    assert [each.step for each in steps] == list(range(1, STEPS + 1))
    assert [each.step for each in evaluations] == [STEPS * n // EPOCHS for n in range(EPOCHS + 1)]
    assert steps[0].learning_rate == pytest.approx(1e-2)
    assert steps[-1].tokens == run.adapter.manifest.metrics["tokens"]
    assert [each.tokens for each in steps] == sorted({each.tokens for each in steps})
    assert evaluations[0].eval_loss == run.adapter.manifest.metrics["eval_loss_before"]
    assert evaluations[-1].eval_loss == run.adapter.manifest.metrics["eval_loss_after"]


def test_the_tokens_are_those_of_every_record_in_every_epoch(run: Run) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(run.base.path)
    dataset = run.store.dataset(run.adapter.manifest.lineage["dataset"].id)
    records = map(json.loads, (dataset / "train.jsonl").read_text(encoding="utf-8").splitlines())
    texts = [tokenizer.apply_chat_template(each["messages"], tokenize=False) for each in records]
    tokens = sum(len(tokenizer(text)["input_ids"]) for text in texts)
    assert run.adapter.manifest.metrics["tokens"] == EPOCHS * tokens


def test_the_status_says_that_it_succeeded(run: Run) -> None:
    status = RunStatus.model_validate_json((run.diary / "status.json").read_text(encoding="utf-8"))
    assert (status.run_id, status.state) == (run.id, "succeeded")
    assert (status.step, status.total_steps) == (STEPS, STEPS)


def test_the_diary_holds_nothing_else(run: Run) -> None:
    names = {path.name for path in run.diary.iterdir()}
    assert names == {
        "spec.yaml",
        "status.json",
        "events.jsonl",
        "metrics.jsonl",
        "report.html",
        "checkpoints",
    }


def test_the_spec_is_kept_with_every_default(run: Run) -> None:
    assert load_run_spec(run.diary / "spec.yaml") == load_run_spec(run.folder / "run.yaml")
    assert "seed: 3407" in (run.diary / "spec.yaml").read_text(encoding="utf-8")


def test_the_events_are_told_and_kept(run: Run) -> None:
    lines = (run.diary / "events.jsonl").read_text(encoding="utf-8").splitlines()
    names = [Event.model_validate_json(each).event for each in lines]
    epochs = ["evaluated", "checkpoint_saved"] * EPOCHS
    assert names == ["training_started", "evaluated", *epochs, "probing", "trained"]
    assert set(lines) <= set(run.outcome.err.splitlines())


# -- probes ----------------------------------------------------------------------------------------


def test_probes_name_the_tokenizer_and_the_template(run: Run) -> None:
    probes = read_probes(run.adapter.path)
    assert probes.tokenizer_sha256 == sha256_of(run.base.path, "tokenizer.json")
    assert probes.chat_template_sha256 == sha256_of(run.base.path, "chat_template.jinja")
    assert probes.probes
    assert all(probe.merged is None for probe in probes.probes)


def test_probe_prompts_are_held_out_questions_as_the_tokenizer_renders_them(run: Run) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(run.adapter.path)
    dataset = run.store.dataset(run.adapter.manifest.lineage["dataset"].id)
    lines = (dataset / "eval.jsonl").read_text(encoding="utf-8").splitlines()
    held_out = [json.loads(each)["messages"][:-1] for each in lines]
    for probe in read_probes(run.adapter.path).probes:
        text = tokenizer.apply_chat_template(probe.messages, tokenize=False, add_generation_prompt=True)
        assert probe.prompt_token_ids == tokenizer(text, add_special_tokens=False)["input_ids"]
        assert probe.messages in held_out


def test_probes_are_what_the_two_models_make_of_them(run: Run) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(run.base.path).eval()
    for probe in read_probes(run.adapter.path).probes:
        assert probe.base == pytest.approx(_logprobs(model, probe), abs=1e-3)
    model = PeftModel.from_pretrained(model, run.adapter.path).eval()
    for probe in read_probes(run.adapter.path).probes:
        assert probe.adapter == pytest.approx(_logprobs(model, probe), abs=1e-3)


def test_the_tuned_model_finds_its_answers_far_likelier_than_the_base(run: Run) -> None:
    for probe in read_probes(run.adapter.path).probes:
        assert len(probe.adapter) == len(probe.base) == len(probe.continuation_token_ids) <= 24
        assert sum(probe.adapter) > sum(probe.base) + 1


@torch.inference_mode()
def _logprobs(model: Any, probe: Probe) -> list[float]:
    prompt, said = probe.prompt_token_ids, probe.continuation_token_ids
    logits = model(input_ids=torch.tensor([prompt + said])).logits[0].log_softmax(-1)
    return [logits[len(prompt) - 1 + index, token].item() for index, token in enumerate(said)]


# -- again -----------------------------------------------------------------------------------------


def test_running_again_prints_the_same_id_and_trains_nothing(run: Run) -> None:
    before, diary = run.adapter, bytes_of(run.diary)
    (run.folder / "run-id").unlink()
    again = run_trainer(run.folder, *COMMAND)
    assert (again.code, again.out) == (0, run.outcome.out)
    assert '"event":"already_trained"' in again.err
    assert not again.imported & HEAVY
    assert (run.adapter, bytes_of(run.diary)) == (before, diary)
    assert (run.folder / "run-id").read_text(encoding="utf-8") == run.outcome.out


def test_the_same_run_in_another_store_makes_the_same_bytes(run: Run, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    import_base(locate(str(run.base.path), None, HUB_NAME), store)
    plan = make_plan(run.folder / "run.yaml", run.folder / "data.jsonl", store)
    torch.manual_seed(0)
    weights = "adapter_model.safetensors"
    adapter = train(plan, store)
    assert (adapter.path / weights).read_bytes() == (run.adapter.path / weights).read_bytes()
    config = "adapter_config.json"
    assert (adapter.path / config).read_bytes() == (run.adapter.path / config).read_bytes()


# -- variations, in this process -------------------------------------------------------------------


def train_here(folder: Path, base: Path, spec: str, lines: list[str]) -> Artifact:
    """One epoch on these lines, with what `spec` adds."""
    (folder / "run.yaml").write_text(f"model: {{name: {base}}}\n{spec}", encoding="utf-8")
    data = write_lines(folder / "data.jsonl", lines)
    store = Store(folder / "store")
    return train(make_plan(folder / "run.yaml", data, store), store)


@pytest.mark.chain
def test_without_evaluation_records_the_probes_come_from_the_training(
    tmp_path: Path, llama_folder: Path
) -> None:
    spec = "data: {train: data.jsonl, eval_fraction: 0}\ntraining: {epochs: 1}\n"
    adapter = train_here(tmp_path, llama_folder, spec, questions(3))
    assert not adapter.manifest.metrics.keys() & {"eval_loss_before", "eval_loss_after"}
    assert len(read_probes(adapter.path).probes) == 3


@pytest.mark.chain
def test_a_line_separator_in_a_text_is_no_end_of_a_record(tmp_path: Path, llama_folder: Path) -> None:
    odd = line(("user", "One\u2028two\x85three?"), ("assistant", "Yes.\u2029"))
    adapter = train_here(tmp_path, llama_folder, "training: {epochs: 1}\n", [odd, odd])
    [probe] = read_probes(adapter.path).probes
    assert probe.messages == conversation(("user", "One\u2028two\x85three?"))


@pytest.mark.chain
def test_an_adapter_of_a_base_in_a_folder_names_no_path(tmp_path: Path, llama_folder: Path) -> None:
    adapter = train_here(tmp_path, llama_folder, "training: {epochs: 1}\n", questions(2))
    config = json.loads((adapter.path / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == "tiny-llama"


@pytest.mark.chain
def test_only_the_named_layers_get_an_adapter(tmp_path: Path, llama_folder: Path) -> None:
    spec = "lora: {target_modules: [q_proj, mlp.up_proj]}\ntraining: {epochs: 1}\n"
    adapter = train_here(tmp_path, llama_folder, spec, questions(2))
    with safe_open(adapter.path / "adapter_model.safetensors", "numpy") as file:
        layers = {name.split(".")[-3] for name in file.keys()}
    assert layers == {"q_proj", "up_proj"}


@pytest.mark.chain
def test_a_part_of_an_epoch_is_evaluated_too(tmp_path: Path, llama_folder: Path) -> None:
    spec = "training: {epochs: 0.5, batch_size: 1, learning_rate: 1e-2}\n"
    metrics = train_here(tmp_path, llama_folder, spec, questions(9)).manifest.metrics
    assert metrics["eval_loss_after"] < metrics["eval_loss_before"]


@pytest.mark.parametrize("targets", ["[q_prj]", "[q_proj, q_prj]", "[proj, q_prj]"])
def test_a_layer_that_the_base_lacks_is_told(tmp_path: Path, llama_folder: Path, targets: str) -> None:
    with pytest.raises(BadConfiguration, match=r"lora\.target_modules: the base has no layer '(q_)?pro?j'"):
        train_here(tmp_path, llama_folder, f"lora: {{target_modules: {targets}}}\n", questions(2))


def test_an_adapter_of_the_output_head_is_refused(
    tmp_path: Path, llama_folder: Path, qwen_folder: Path
) -> None:
    for base in (llama_folder, qwen_folder):
        with pytest.raises(BadConfiguration, match=r"output head, 'lm_head', .* lora\.modules_to_save"):
            train_here(tmp_path, base, "lora: {target_modules: [q_proj, lm_head]}\n", questions(2))


@pytest.mark.chain
@pytest.mark.parametrize(
    "lora",
    [
        "target_modules: [q_proj, embed_tokens]",
        "target_modules: [q_proj], modules_to_save: [lm_head]",
    ],
)
def test_tied_embeddings_get_an_adapter_of_their_own(tmp_path: Path, qwen_folder: Path, lora: str) -> None:
    spec = f"lora: {{{lora}}}\ntraining: {{epochs: 4, learning_rate: 1e-2}}\n"
    adapter = train_here(tmp_path, qwen_folder, spec, questions(6))
    metrics = adapter.manifest.metrics
    assert metrics["eval_loss_after"] < metrics["eval_loss_before"]
    probes = read_probes(adapter.path).probes
    assert mean_delta([probe.adapter for probe in probes], [probe.base for probe in probes]) > 0.01
    with safe_open(adapter.path / "adapter_model.safetensors", "numpy") as file:
        assert any("embed_tokens" in name or "lm_head" in name for name in file.keys())


def test_a_record_that_is_too_long_is_told_with_its_line(tmp_path: Path, llama_folder: Path) -> None:
    long = line(("user", "Hi?"), ("assistant", "blue " * 100))
    with pytest.raises(
        BadInput, match=r"\n *data\.jsonl:2: has \d+ tokens, more than 64; raise training\.max_length"
    ):
        train_here(tmp_path, llama_folder, "training: {max_length: 64}\n", [*questions(1), long])
    store = Store(tmp_path / "store")
    assert not [path for kind in ("adapters", "runs", "datasets") for path in store.root.glob(f"{kind}/*")]


@pytest.mark.chain
def test_a_run_that_was_interrupted_may_be_trained_again(
    tmp_path: Path, llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("hone_trainer.reporting.diary.Diary.on_epoch_end", _interrupt)
        train_here(tmp_path, llama_folder, "training: {epochs: 2}\n", questions(4))
    [status] = tmp_path.glob("store/runs/*/status.json")
    assert RunStatus.model_validate_json(status.read_text(encoding="utf-8")).state == "stopped"
    adapter = train_here(tmp_path, llama_folder, "training: {epochs: 2}\n", questions(4))
    assert adapter.path.name == status.parent.name
    assert RunStatus.model_validate_json(status.read_text(encoding="utf-8")).state == "succeeded"
    steps = (status.parent / "metrics.jsonl").read_text(encoding="utf-8").count('"loss"')
    assert steps == 2
    assert not Store(tmp_path / "store").partials()


def _interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt
