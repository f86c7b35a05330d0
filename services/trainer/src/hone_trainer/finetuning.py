"""Fine-tuning from Python: a face on what `hone-trainer` does, in the words of a well-known guide.

    config = FineTuningConfig(model_name="Qwen/Qwen2.5-1.5B-Instruct", output_dir="./results")
    path = run_fine_tuning("records.json", config)
    model, tokenizer = load_model_and_tokenizer(FineTuningConfig(model_name=path))
    print(generate_text(model, tokenizer, "Explain LoRA."))

It builds a run spec and trains it. What has no name here has one in a spec: `hone-trainer train` reads that.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from hone_contract.artifact import Artifact, open_artifact, write_atomically
from hone_contract.data_spec import DataSpec
from hone_contract.errors import ArtifactExists, ArtifactMissing, BadConfiguration
from hone_contract.manifest import FILE_NAME, first_problem
from hone_contract.run_spec import CheckpointSpec, LoraSpec, ModelSpec, RunSpec, TrainingSpec
from hone_contract.spec_file import dump_run_spec
from hone_contract.store import Store
from hone_trainer.answering.sampling import Sampling
from hone_trainer.base import import_base, locate
from hone_trainer.data.cores import in_this_process
from hone_trainer.plan import make_plan
from hone_trainer.reporting.trackers import check_trackers

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
_PROJECT = "WANDB_PROJECT"


@dataclass
class FineTuningConfig:
    """What to train, and how. None is what a run spec that does not say it means."""

    model_name: str
    """A Hub id, a folder, `demo:smollm2-135m-instruct`, or what `run_fine_tuning` returned."""
    output_dir: str | Path = "./results"
    """Holds `final_model`, `run.yaml` and `store`, where base, data, events and metrics are."""
    max_seq_length: int = 2048
    """Tokens that a record may have; longer ones are rejected, never cut."""
    lora_r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    load_in_4bit: bool = False
    """Whether the base is in 4 bits while it is trained (QLoRA)."""
    batch_size: int = 4
    """Records a forward pass."""
    gradient_accumulation_steps: int = 1
    num_train_epochs: float = 3
    learning_rate: float = 2e-4
    warmup_steps: int | float = 0
    """Optimiser steps; below 1, their share of all."""
    weight_decay: float = 0.0
    seed: int = 3407
    save_steps: int | None = None
    """Optimiser steps between checkpoints. None: at every evaluation."""
    eval_steps: int | None = None
    """Optimiser steps between evaluations. None: after each epoch."""
    logging_steps: int | None = None
    """Accepted and not needed: every step is written to `metrics.jsonl`."""
    fp16: bool = False
    bf16: bool = False
    """With neither, the best number format that the hardware has."""
    use_wandb: bool = False
    """Whether Weights & Biases is told of the run; the package `wandb` must be there."""
    wandb_project: str | None = None
    """None: `hone`."""
    wandb_run_name: str | None = None
    """The run's name, here and there; its id follows it. None: the base's short name with `-tuned`."""

    @property
    def dtype(self) -> Dtype:
        """Raises BadConfiguration when both formats are asked for."""
        if self.fp16 and self.bf16:
            raise BadConfiguration("fp16 and bf16 are two number formats; ask for one of them")
        return "float16" if self.fp16 else "bfloat16" if self.bf16 else "auto"


def run_fine_tuning(
    data_path: str | Path,
    config: FineTuningConfig,
    train_test_split: float = 0.1,
    prompt_template: str | None = None,
) -> str:
    """Train on a file of records; the path of a folder for `load_model_and_tokenizer`, which PEFT opens too.

    `train_test_split` is the share of the records that is set aside for evaluation. `prompt_template` is a
    text with the record's fields in braces, the answer last; None: the base's chat template. The same run
    is trained once. Raises BadConfiguration, BadInput or RetryableFailure, as `hone-trainer train` fails.
    """
    # TRL tells its makers of every run; whoever wants that sets the variable to 0.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    output = Path(config.output_dir)
    final = output / "final_model"
    _check_final(final)
    spec = _spec(config, Path(data_path), train_test_split, prompt_template)
    check_trackers(spec.training.report_to)
    write_atomically(output / "run.yaml", dump_run_spec(spec))
    store = Store(output / "store")
    # A script that calls this need not be one that other processes can import.
    with in_this_process(), _wandb_project(config.wandb_project):
        plan = make_plan(output / "run.yaml", None, store)
        if plan.target(store).exists():
            adapter = open_artifact(plan.target(store), "adapter")
        else:
            from hone_trainer.sizing.estimate import check_fits  # noqa: PLC0415 - imports torch
            from hone_trainer.train import train  # noqa: PLC0415

            check_fits(plan)
            adapter = train(plan, store)
    _export(adapter, final)
    return str(final)


def load_model_and_tokenizer(config: FineTuningConfig) -> tuple[Any, Any]:
    """The model that `config.model_name` names, in evaluation mode, and its tokenizer with its chat template.

    What `run_fine_tuning` returned is loaded with the base of its store, or else the one of HONE_STORE.
    Raises BadConfiguration when neither has it.
    """
    from hone_trainer.answering.candidates import load, tokenizer_of  # noqa: PLC0415 - imports torch
    from hone_trainer.models import pick_dtype, quiet  # noqa: PLC0415

    quiet()
    dtype = pick_dtype(TrainingSpec(dtype=config.dtype))
    folder = Path(config.model_name).expanduser()
    if (folder / FILE_NAME).is_file():
        adapter = open_artifact(folder, "adapter", digests=True)
        base = _base_of(adapter, [Store(folder.parent / "store"), Store.from_environment()])
        return load(adapter, base, dtype), tokenizer_of(adapter, base)
    base = import_base(locate(_location(config.model_name), None), Store(Path(config.output_dir) / "store"))
    return load(base, base, dtype), tokenizer_of(base, base)


def generate_text(
    model: Any,
    tokenizer: Any,
    prompt: str,
    max_new_tokens: int = 512,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    repetition_penalty: float = 1.0,
    no_repeat_ngram_size: int = 0,
    seed: int | None = None,
    system: str | None = None,
    chat: bool = True,
) -> str:
    """What the model answers, without the prompt; at temperature 0 the likeliest words.

    The prompt is the user's turn of a conversation with that `system` prompt; without `chat` it is
    continued as it stands. Raises BadConfiguration for a value that means nothing.
    """
    sampling = Sampling(
        max_new_tokens, temperature, top_p, top_k, repetition_penalty, no_repeat_ngram_size, seed
    )
    from hone_trainer.answering.answers import answer_all, chat_prompt, plain_prompt  # noqa: PLC0415 - imports torch

    ids = chat_prompt(tokenizer, prompt, system) if chat else plain_prompt(tokenizer, prompt)
    [text] = answer_all(model, tokenizer, [ids], sampling)
    return text.strip()


def _spec(config: FineTuningConfig, data: Path, split: float, template: str | None) -> RunSpec:
    try:
        return RunSpec(
            model=ModelSpec(name=_location(config.model_name)),
            name=_run_name(config.wandb_run_name),
            method="qlora" if config.load_in_4bit else "lora",
            data=DataSpec(train=str(data.expanduser().absolute()), eval_fraction=split, format=template),
            lora=LoraSpec(r=config.lora_r, alpha=config.lora_alpha, dropout=config.lora_dropout),
            training=TrainingSpec(
                epochs=config.num_train_epochs,
                batch_size=config.batch_size,
                gradient_accumulation_steps=config.gradient_accumulation_steps,
                learning_rate=config.learning_rate,
                warmup_steps=config.warmup_steps,
                weight_decay=config.weight_decay,
                max_length=config.max_seq_length,
                dtype=config.dtype,
                eval_steps=config.eval_steps,
                report_to=["wandb"] if config.use_wandb else [],
                seed=config.seed,
            ),
            checkpoints=CheckpointSpec(save_steps=config.save_steps),
        )
    except ValidationError as error:
        raise BadConfiguration(f"{error.title}: {first_problem(error)}") from None


def _location(name: str) -> str:
    """A folder is relative to where the script runs, not to the spec that is made of it."""
    folder = Path(name).expanduser()
    return str(folder.absolute()) if folder.is_dir() else name


@contextmanager
def _wandb_project(name: str | None) -> Iterator[None]:
    """Where wandb looks for the name of its project."""
    before = os.environ.get(_PROJECT)
    if name is not None:
        os.environ[_PROJECT] = name
    try:
        yield
    finally:
        os.environ.pop(_PROJECT, None)
        if before is not None:
            os.environ[_PROJECT] = before


def _run_name(name: str | None) -> str | None:
    """A run's name is also a folder's and a model's: small letters, digits, '.', '_' and '-'."""
    return None if name is None else re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:63]


def _check_final(final: Path) -> None:
    """Before hours of training, not after. What a run left there is replaced, nothing else is."""
    if final.exists() and not (final / FILE_NAME).is_file():
        raise ArtifactExists(
            f"{final} is there, and no run of Hone wrote it; move it, or choose another output_dir"
        )


def _export(adapter: Artifact, final: Path) -> None:
    """A copy with plain files, manifest and all. It takes the place of an earlier one at once."""
    new, old = final.with_name(".final_model.new"), final.with_name(".final_model.old")
    for path in (new, old):
        shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(adapter.path, new)
    if final.exists():
        final.rename(old)
    new.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def _base_of(adapter: Artifact, stores: list[Store]) -> Artifact:
    wanted = adapter.manifest.lineage["base"]
    for store in stores:
        if not store.base(wanted.id).is_dir():
            continue
        base = open_artifact(store.base(wanted.id), "base")
        if base.manifest.digest == wanted.digest:
            return base
    looked = " and ".join(str(store.root) for store in stores)
    raise ArtifactMissing(
        f"{adapter.path} was trained on {wanted.id}, which is not in {looked}; "
        "keep the folder beside its store, or set HONE_STORE"
    )
