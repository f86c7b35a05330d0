"""`hone-trainer train`: TRL and PEFT do the training; what comes out is a sealed adapter."""

import importlib.metadata
import json
import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase, PrinterCallback
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging as transformers_logging
from trl import SFTConfig, SFTTrainer

from hone_contract.artifact import Artifact, draft, seal, write_atomically
from hone_contract.errors import BadConfiguration, BadInput
from hone_contract.events import Reporter
from hone_contract.model_files import CHAT_TEMPLATE, TOKENIZER_FILES
from hone_contract.probes import write_probes
from hone_contract.run_spec import RunSpec, TrainingSpec
from hone_contract.spec_file import dump_run_spec
from hone_contract.store import Store
from hone_trainer.base import is_folder
from hone_trainer.chat_templates import load_tokenizer
from hone_trainer.conversation import Sequence, to_sequence
from hone_trainer.diary import Diary, failure_told
from hone_trainer.plan import Plan
from hone_trainer.probing import Question, make_probes, questions
from hone_trainer.record import load_records
from hone_trainer.scoring import mean_loss, score

_TIED = ("embed_tokens", "lm_head", "wte", "embed_in", "embed_out")
_ADAPTABLE = (torch.nn.Linear, torch.nn.Embedding)
_TOOLS = ("torch", "transformers", "trl", "peft")


@dataclass(frozen=True)
class Tokenised:
    """A dataset as the model sees it, beside the records that it was made from."""

    train: list[Sequence]
    eval: list[Sequence]
    questions: list[Question]
    """For the probes: from the evaluation's records, or from the training's if it has none."""


def train(plan: Plan, store: Store) -> Artifact:
    """Train the planned run and seal its adapter.

    Raises BadInput for a record that is too long, ArtifactBusy when another process trains this run.
    """
    folder = store.run(plan.run_id)
    with draft(store.adapter(plan.run_id), {"run": plan.run_id}) as partial, failure_told(folder):
        _begin_diary(plan, folder)
        reporter = Reporter("trainer", folder / "events.jsonl")
        transformers_logging.disable_progress_bar()
        transformers_logging.set_verbosity_error()
        tokenizer = load_tokenizer(plan.base.path, plan.chat_template)
        data = _tokenise(plan, tokenizer)
        return _train(plan, data, tokenizer, folder, reporter, partial)


def _train(
    plan: Plan,
    data: Tokenised,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    reporter: Reporter,
    partial: Path,
) -> Artifact:
    diary = Diary(folder, reporter, lambda: _evaluate(trainer.model, data.eval))
    trainer = _trainer(plan, data, tokenizer, folder, diary)
    before = _evaluate(trainer.model, data.eval)
    _tell_start(reporter, plan, data, trainer.model)
    start = time.monotonic()
    trainer.train()
    seconds = time.monotonic() - start
    if not all(math.isfinite(loss) for loss in (diary.loss, diary.eval_loss) if loss is not None):
        raise BadInput(
            f"training diverged: the loss is {diary.loss}, on the evaluation records {diary.eval_loss}; "
            "lower training.learning_rate"
        )
    reporter.tell("probing", "recording what the server will have to reproduce")
    _write_tokenizer(plan, partial)
    write_probes(partial, make_probes(trainer.model, tokenizer, partial, data.questions))
    _write_adapter(trainer.model, plan, partial)
    metrics = {
        "seconds": seconds,
        "tokens": float(diary.tokens),
        "tokens_per_second": diary.tokens_per_second,
    }
    losses = {"eval_loss_before": before, "eval_loss_after": diary.eval_loss}
    metrics |= {name: loss for name, loss in losses.items() if loss is not None}
    adapter = seal(partial, "adapter", plan.run_id, lineage=plan.lineage, tools=_versions(), metrics=metrics)
    diary.set_status("succeeded", trainer.state)
    reporter.tell(
        "trained", f"adapter {plan.run_id} in {seconds:.0f} s", run_id=plan.run_id, metrics={**metrics}
    )
    return adapter


def _trainer(
    plan: Plan, data: Tokenised, tokenizer: PreTrainedTokenizerBase, folder: Path, diary: Diary
) -> Any:
    dtype = pick_dtype(plan.spec.training)
    model = AutoModelForCausalLM.from_pretrained(plan.base.path, dtype=dtype)
    _check_targets(model, plan.spec.lora.target_modules)
    trainer = SFTTrainer(
        model=model,
        args=_arguments(plan.spec.training, folder),
        train_dataset=_dataset(data.train),
        processing_class=tokenizer,
        peft_config=_lora(plan.spec),
        callbacks=[diary],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _arguments(training: TrainingSpec, folder: Path) -> SFTConfig:
    on_gpu = torch.cuda.is_available()
    return SFTConfig(
        output_dir=str(folder),
        num_train_epochs=training.epochs,
        per_device_train_batch_size=training.batch_size,
        gradient_accumulation_steps=training.gradient_accumulation_steps,
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.scheduler,
        warmup_steps=training.warmup_steps,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        seed=training.seed,
        data_seed=training.seed,
        bf16=pick_dtype(training) is torch.bfloat16,
        use_cpu=not on_gpu,
        dataloader_pin_memory=on_gpu,
        # Records that are too long were refused; none is ever cut.
        max_length=None,
        train_sampling_strategy="group_by_length",
        gradient_checkpointing=on_gpu,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def pick_dtype(training: TrainingSpec) -> torch.dtype:
    """The number format of the forward pass: as asked, or bfloat16 where a GPU has it."""
    if training.dtype == "auto":
        has_bfloat16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if has_bfloat16 else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[training.dtype]


def _check_targets(model: Any, targets: str | list[str]) -> None:
    """PEFT passes over a layer that the base has not, as long as it has another of the list."""
    layers = [name for name, module in model.named_modules() if isinstance(module, (*_ADAPTABLE, Conv1D))]
    for target in [] if isinstance(targets, str) else targets:
        if not any(f".{layer}".endswith(f".{target}") for layer in layers):
            known = ", ".join(sorted({layer.rpartition(".")[2] for layer in layers}))
            raise BadConfiguration(
                f"lora.target_modules: the base has no layer {target!r} to adapt; it has {known}"
            )
        if target.rpartition(".")[2] in _TIED and model.config.tie_word_embeddings:
            raise BadConfiguration(
                f"lora.target_modules: {target!r} cannot be merged on this base, which ties its input and "
                "output embeddings; leave it out"
            )


def _lora(spec: RunSpec) -> LoraConfig:
    return LoraConfig(
        r=spec.lora.r,
        lora_alpha=spec.lora.alpha,
        lora_dropout=spec.lora.dropout,
        target_modules=spec.lora.target_modules,
        task_type="CAUSAL_LM",
    )


def _tokenise(plan: Plan, tokenizer: PreTrainedTokenizerBase) -> Tokenised:
    max_length = plan.spec.training.max_length
    train = load_records(plan.dataset.path / "train.jsonl")
    evaluation = load_records(plan.dataset.path / "eval.jsonl")
    return Tokenised(
        train=[to_sequence(tokenizer, record, max_length) for record in train],
        eval=[to_sequence(tokenizer, record, max_length) for record in evaluation],
        questions=questions(tokenizer, evaluation or train),
    )


def _dataset(sequences: list[Sequence]) -> Dataset:
    return Dataset.from_dict(
        {
            "input_ids": [sequence.input_ids for sequence in sequences],
            "labels": [sequence.labels for sequence in sequences],
        }
    )


def _evaluate(model: Any, sequences: list[Sequence]) -> float | None:
    if not sequences:
        return None
    was_training = model.training
    loss = mean_loss(score(model, sequences))
    model.train(was_training)
    return loss


def _write_adapter(model: PeftModel, plan: Plan, partial: Path) -> None:
    name = plan.spec.model.name
    for config in model.peft_config.values():
        # A path of this machine would mean nothing where the adapter is used.
        config.base_model_name_or_path = plan.base.manifest.id if is_folder(name) else name
        # A set is written in another order by every process; the same run makes the same bytes.
        config.target_modules = sorted(config.target_modules)
    # LoRA never changes the base's own embeddings; PEFT would ask the Hub whether they grew.
    model.save_pretrained(partial, safe_serialization=True, save_embedding_layers=False)
    (partial / "README.md").unlink(missing_ok=True)


def _write_tokenizer(plan: Plan, partial: Path) -> None:
    """The base's own files, byte for byte, but for a chat template that the spec chooses."""
    for name in TOKENIZER_FILES:
        if (plan.base.path / name).is_file():
            shutil.copyfile(plan.base.path / name, partial / name)
    if plan.spec.model.chat_template is None:
        return
    (partial / CHAT_TEMPLATE).write_text(plan.chat_template, encoding="utf-8")
    config_file = partial / "tokenizer_config.json"
    config = json.loads(config_file.read_text(encoding="utf-8")) if config_file.is_file() else {}
    if "chat_template" in config:
        config["chat_template"] = plan.chat_template
        config_file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _begin_diary(plan: Plan, folder: Path) -> None:
    for name in ("events.jsonl", "metrics.jsonl", "status.json"):
        (folder / name).unlink(missing_ok=True)
    write_atomically(folder / "spec.yaml", dump_run_spec(plan.spec))


def _tell_start(reporter: Reporter, plan: Plan, data: Tokenised, model: PeftModel) -> None:
    trainable, total = model.get_nb_trainable_parameters()
    tokens = sum(len(sequence.input_ids) for sequence in data.train)
    reporter.tell(
        "training_started",
        f"run {plan.run_id}: {len(data.train)} records, {tokens} tokens an epoch, "
        f"{plan.spec.training.epochs:g} epochs, {trainable / 1e6:.1f} of {total / 1e6:.0f} M parameters",
        run_id=plan.run_id,
        records=len(data.train),
        tokens_per_epoch=tokens,
        trainable_parameters=trainable,
    )


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _TOOLS}
