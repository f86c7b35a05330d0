"""The run spec: one file that says a whole run, from the base to the name it is served under."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from hone_contract.data_spec import DataSpec
from hone_contract.shape import Shape

Method = Literal["lora", "qlora", "full"]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]


class ModelSpec(Shape):
    """The base model to start from."""

    name: Annotated[str, StringConstraints(min_length=1)]
    """`demo:smollm2-135m-instruct`, a folder (`./…`, relative to the spec), or a Hub id (`owner/name`)."""
    revision: str | None = None
    """Branch, tag or commit on the Hub. None: the default branch, resolved to a commit and recorded."""
    chat_template: Annotated[str, StringConstraints(min_length=1)] | None = None
    """`chatml`, `mistral-instruct`, or a Jinja file of your own (`./…`, relative to the spec), for training
    and serving. None: the base's own, which an instruction-tuned base has."""


class LoraSpec(Shape):
    """Low-rank adaptation (https://arxiv.org/abs/2106.09685): W + alpha / r * B @ A."""

    r: Annotated[int, Field(ge=1, le=512)] = 16
    """Rank of the update."""
    alpha: Annotated[int, Field(ge=1)] = 32
    """Scale of the update, divided by r."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the adapter's inputs dropped during training."""
    target_modules: Literal["all-linear", "projections"] | Annotated[list[str], Field(min_length=1)] = (
        "all-linear"
    )
    """Which layers get an adapter: every linear layer but the output head, the seven that guides name
    (q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj), or a list of layer names."""
    use_rslora: bool = False
    """Whether the update is divided by the root of r (https://arxiv.org/abs/2312.03732)."""
    use_dora: bool = False
    """Whether length and direction of each weight are learned apart (https://arxiv.org/abs/2402.09353)."""
    rank_pattern: dict[str, Annotated[int, Field(ge=1, le=512)]] = {}
    """Ranks of some layers, by their name or a regular expression: `{q_proj: 32}`."""
    alpha_pattern: dict[str, Annotated[int, Field(ge=1)]] = {}
    """Alphas of some layers, likewise."""
    modules_to_save: list[str] = []
    """Layers that are trained whole beside the adapter, and kept with it."""


class DpoSpec(Shape):
    """Direct preference optimisation (https://arxiv.org/abs/2305.18290)."""

    beta: Annotated[float, Field(gt=0, le=2)] = 0.1
    """How dear it is to move away from the base: a reward is beta * log(p(answer) / p of the base)."""


class TrainingSpec(Shape):
    """How to train."""

    epochs: Annotated[float, Field(gt=0, le=1000)] = 3
    """Passes over the training records."""
    max_steps: Annotated[int, Field(ge=1)] | None = None
    """Optimiser steps after which training ends. None: as many as `epochs` takes."""
    batch_size: Annotated[int, Field(ge=1)] = 4
    """Records a forward pass on each device; with packing, records that are taken together."""
    gradient_accumulation_steps: Annotated[int, Field(ge=1)] = 1
    """Batches an optimiser step."""
    packing: Literal["auto"] | bool = "auto"
    """Whether the records of a step share forward passes without padding, none seeing another. auto: where
    the base's attention allows it, else batches are padded."""
    tokens_per_pass: Annotated[int, Field(ge=1)] | None = None
    """With packing, tokens that a forward pass holds at most; a longer record has one of its own. None:
    768 on a CPU, `max_length` on a GPU."""
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 2e-4
    """Peak learning rate of AdamW."""
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    """AdamW, or bitsandbytes' with its state in 8 bits."""
    scheduler: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls after the warm-up."""
    warmup_steps: Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0, lt=1)] = 0
    """Optimiser steps in which the learning rate rises from 0 to its peak; below 1, their share of all."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's weight decay."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are clipped to this norm."""
    neftune_noise_alpha: Annotated[float, Field(gt=0)] | None = None
    """Noise on the embeddings while training (https://arxiv.org/abs/2310.05914). None: no noise."""
    max_length: Annotated[int, Field(ge=16)] = 2048
    """Tokens a record may have; a longer one is refused by its line, never cut."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the forward pass. auto: bfloat16 where a GPU has it, float16 on older GPUs, else
    float32."""
    gradient_checkpointing: Literal["auto"] | bool = "auto"
    """Whether activations are computed again in the backward pass instead of kept. auto: on a GPU."""
    sharding: Literal["none", "full"] = "none"
    """What several processes share out. none: each has the whole model, and only gradients are averaged
    (DDP). full: weights, gradients and optimizer are split among them (FSDP2), for what does not fit on one
    GPU; a single process keeps them whole."""
    eval_steps: Annotated[int, Field(ge=1)] | None = None
    """Optimiser steps between evaluations. None: after each epoch."""
    load_best_model_at_end: bool = False
    """Whether the result is the checkpoint with the lowest evaluation loss, instead of the last."""
    early_stopping_patience: Annotated[int, Field(ge=1)] | None = None
    """Evaluations without a lower loss after which training ends, with the best checkpoint. None: never."""
    report_to: list[Literal["wandb", "mlflow", "tensorboard", "trackio"]] = []
    """Trackers that are told of the run, each a package of that name."""
    seed: Annotated[int, Field(ge=0)] = 3407
    """Seed of the adapter's initial weights and of the order of the records."""


class CheckpointSpec(Shape):
    """When a run is saved, to go on from there after it was stopped or killed."""

    save_steps: Annotated[int, Field(ge=1)] | None = None
    """Optimiser steps between checkpoints. None: at every evaluation."""
    keep: Annotated[int, Field(ge=1)] = 2
    """How many of the newest stay on the disk; the best one stays besides, when it is wanted at the end."""


class RunSpec(Shape):
    """A whole run."""

    model: ModelSpec
    name: Name | None = None
    """Name of the run and of the model it makes. None: the base's short name with `-tuned`."""
    method: Method = "lora"
    """How the base is adapted: by LoRA, by LoRA on a base in 4 bits (NF4, https://arxiv.org/abs/2305.14314),
    or in every weight."""
    objective: Literal["sft", "dpo"] = "sft"
    """What is learned from the data: the answers of conversations (supervised fine-tuning), or which of two
    answers is the better one of preference pairs (DPO), beside a base that stays as it is (LoRA, QLoRA)."""
    backend: Literal["transformers", "unsloth"] = "transformers"
    """What loads the model: Transformers and PEFT, or Unsloth's FastLanguageModel (one GPU)."""
    data: DataSpec | None = None
    """The examples; a string or a list of strings is taken as `train`. None: they come from `--data FILE`."""
    lora: LoraSpec = LoraSpec()
    dpo: DpoSpec = DpoSpec()
    training: TrainingSpec = TrainingSpec()
    checkpoints: CheckpointSpec = CheckpointSpec()

    @field_validator("data", mode="before")
    @classmethod
    def _plain_path(cls, value: Any) -> Any:
        return {"train": value} if isinstance(value, str | list) else value

    @field_validator("method", mode="before")
    @classmethod
    def _no_objective(cls, value: Any) -> Any:
        if value in ("dpo", "sft"):
            raise ValueError(f"{value} says what is learned, not how; write objective: {value}")
        return value

    @model_validator(mode="after")
    def _is_consistent(self) -> "RunSpec":
        if self.method == "full" and self.lora != LoraSpec():
            raise ValueError("method: full trains every weight, so leave lora out")
        self._check_objective()
        if self.training.sharding == "full":
            self._check_sharding()
        if self.method == "full" and self.backend == "unsloth":
            raise ValueError("backend: unsloth is for method: lora and qlora")
        if self.wants_best and self.data is not None and self.data.eval is None:
            if self.data.eval_fraction == 0 and self.data.eval_count is None:
                raise ValueError(
                    "load_best_model_at_end and early_stopping_patience need evaluation records; "
                    "data.eval_fraction is 0"
                )
        return self

    def _check_objective(self) -> None:
        if self.objective == "sft":
            if self.dpo != DpoSpec():
                raise ValueError("dpo is for preference pairs; write objective: dpo as well, or leave it out")
            return
        for wrong, why in (
            (self.method == "full", "method: full overwrites the base to compare with; use lora or qlora"),
            (self.backend == "unsloth", "backend: unsloth is for objective: sft"),
            (self.training.neftune_noise_alpha is not None, "leave training.neftune_noise_alpha out"),
        ):
            if wrong:
                raise ValueError(f"objective: dpo: {why}")

    def _check_sharding(self) -> None:
        for wrong, why in (
            (self.method == "qlora", "weights in 4 bits cannot be split; use method: lora"),
            (self.training.optimizer == "adamw_8bit", "an optimizer in 8 bits cannot be split; use adamw"),
            (self.backend == "unsloth", "backend: unsloth trains on one GPU; leave one of the two out"),
        ):
            if wrong:
                raise ValueError(f"training.sharding: full: {why}")

    @property
    def wants_best(self) -> bool:
        """Whether the result is the best checkpoint: early stopping without it would give a worse one."""
        return self.training.load_best_model_at_end or self.training.early_stopping_patience is not None

    @property
    def title(self) -> str:
        """`name`, or the one made from the base's."""
        if self.name is not None:
            return self.name
        short = re.split(r"[/:]", self.model.name.rstrip("/"))[-1].lower()
        return (re.sub(r"[^a-z0-9._-]+", "-", short).strip("-._")[:56] or "model") + "-tuned"
