"""Puts a run's trainer together: the model in the form of its method, and Hone's settings of TRL's."""

from functools import partial
from typing import Any

import torch
from peft import get_peft_model
from transformers import AutoConfig, EarlyStoppingCallback, PrinterCallback, TrainerCallback
from transformers.utils import is_flash_attn_2_available
from trl import DPOConfig, SFTConfig

from hone_contract.errors import BadConfiguration
from hone_contract.events import Reporter
from hone_contract.run_spec import RunSpec
from hone_trainer import unsloth_backend
from hone_trainer.chat.chat_templates import load_tokenizer
from hone_trainer.models import device, load_base, pick_dtype
from hone_trainer.plan import Plan
from hone_trainer.training import attention
from hone_trainer.training.batches import recomputes, tokens_per_pass
from hone_trainer.training.checkpoints import Checkpoints
from hone_trainer.training.dpo import Dpo
from hone_trainer.training.loop import Layout, Loop
from hone_trainer.training.lora import lora_config
from hone_trainer.training.lora_layers import speed_up
from hone_trainer.training.noise import Noise
from hone_trainer.training.ranks import world
from hone_trainer.training.rhythm import Rhythm
from hone_trainer.training.sft import Sft
from hone_trainer.training.stopping import Stopping
from hone_trainer.training.tokens import Tokenised

# Evaluating and saving are told to Trainer by Rhythm; these only have it allow both.
_NEVER = 10**9
# Records that are too long were refused; none is ever cut.
_ANSWERS: dict[str, Any] = {"max_length": None, "dataset_kwargs": {"skip_prepare_dataset": True}}
# What is dropped is for the spec to say, as with answers.
_PAIRS: dict[str, Any] = {"max_length": None, "disable_dropout": False}


def assemble(
    plan: Plan,
    data: Tokenised,
    checkpoints: Checkpoints,
    reporter: Reporter,
    diary: TrainerCallback,
    stopping: Stopping,
    trackers: dict[str, Any],
) -> Loop:
    """The trainer of a run, ready to train.

    Raises BadConfiguration for what the base or the device cannot do.
    """
    spec = plan.spec
    if spec.wants_best and not len(data.eval):
        raise BadConfiguration(
            "training.load_best_model_at_end and early_stopping_patience need evaluation records, and there "
            "are none; give data.eval, or set some aside"
        )
    model, packed = _model(spec, plan, reporter)
    stored_as = AutoConfig.from_pretrained(plan.base.path).dtype or torch.float32
    layout = Layout(
        records_a_step=spec.training.batch_size * spec.training.gradient_accumulation_steps,
        tokens_a_pass=tokens_per_pass(spec.training, torch.cuda.is_available()),
        packed=packed,
        records_a_pass=spec.training.batch_size,
    )
    model = _trainable(spec, plan, model)
    arguments = _arguments(
        spec,
        checkpoints,
        evaluates=len(data.eval) > 0,
        has_experts=hasattr(model.config, "output_router_logits"),
        **trackers,
    )
    # One process has one GPU, however many it sees.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    tokenizer = load_tokenizer(plan.base.path, plan.chat_template)
    trainer = (Dpo if spec.objective == "dpo" else Sft)(
        model, tokenizer, arguments, data, layout, checkpoints, [diary], stored_as, is_sharded(spec)
    )
    trainer.remove_callback(PrinterCallback)
    if (alpha := spec.training.neftune_noise_alpha) is not None:
        trainer.noise = Noise(trainer.model, alpha)
    if (patience := spec.training.early_stopping_patience) is not None:
        trainer.add_callback(EarlyStoppingCallback(patience))
    trainer.add_callback(Rhythm(spec, len(trainer.get_train_dataloader()), bool(len(data.eval)), stopping))
    return trainer


def is_sharded(spec: RunSpec) -> bool:
    """Whether the model is shared out over the processes; a single one has it whole."""
    return spec.training.sharding == "full" and world() > 1


def computes_in(spec: RunSpec) -> torch.dtype:
    """What weights that are shared out are put together in. Those of a frozen base are in 16 bits already."""
    return pick_dtype(spec.training) if spec.method == "full" else torch.float32


def _model(spec: RunSpec, plan: Plan, reporter: Reporter) -> tuple[Any, bool]:
    """The base, and whether its records can share rows.

    Raises BadConfiguration when they cannot and the spec wants it.
    """
    if spec.backend == "unsloth":
        return unsloth_backend.load_base(plan.base.path, spec, _stored_in_training(spec)), False
    if spec.training.packing is not False:
        for kernel in _row_attentions(spec):
            model = _load(spec, plan, kernel)
            if model is not None and attention.keeps_records_apart(model):
                return model, True
            del model
        told = "the layers of this base do not keep records apart that share a row"
        if spec.training.packing is True:
            raise BadConfiguration(f"training.packing: {told}; use auto or false, which pads batches instead")
        reporter.tell("not_packed", f"{told}, so batches are padded", level="warning")
    return _load(spec, plan, None), False


def _load(spec: RunSpec, plan: Plan, kernel: str | None) -> Any:
    """None when the architecture does not let its attention be chosen."""
    dtype = _stored_in_training(spec)
    try:
        return load_base(
            plan.base.path,
            dtype,
            method=spec.method,
            attention=kernel,
            # As large as the memory of all devices together.
            on=torch.device("cpu") if is_sharded(spec) else device(),
        )
    except ValueError:
        if kernel is None:
            raise
        return None


def _stored_in_training(spec: RunSpec) -> torch.dtype:
    dtype = pick_dtype(spec.training)
    if dtype is torch.float16 and not torch.cuda.is_available():
        raise BadConfiguration("training.dtype: float16 needs a GPU; use float32 on a CPU")
    # Weights that are learned are kept in float32; what they compute is in `dtype`.
    return torch.float32 if spec.method == "full" else dtype


def _row_attentions(spec: RunSpec) -> list[str]:
    """Those to try. FlashAttention tells records apart by their positions; it computes in 16 bits only."""
    narrow = _stored_in_training(spec) is not torch.float32
    if narrow and is_flash_attn_2_available() and torch.cuda.get_device_capability()[0] >= 8:
        return ["flash_attention_2", attention.NAME]
    return [attention.NAME]


def _trainable(spec: RunSpec, plan: Plan, model: Any) -> Any:
    """Raises BadConfiguration for layers that the base has not."""
    if spec.method == "full":
        model.requires_grad_(True)
        return model.train()
    # The seed of the adapter's weights; Trainer sets it again for the order of everything else.
    torch.manual_seed(spec.training.seed)
    lora = lora_config(model, spec.lora)
    adapted = (
        unsloth_backend.add_adapter(model, spec, lora)
        if spec.backend == "unsloth"
        else get_peft_model(model, lora)
    )
    for config in adapted.peft_config.values():
        # A path of this machine would mean nothing where the adapter is used.
        config.base_model_name_or_path = plan.base_name
    if not torch.cuda.is_available():
        speed_up(adapted)
    return adapted


def _arguments(
    spec: RunSpec, checkpoints: Checkpoints, *, evaluates: bool, has_experts: bool, **trackers: Any
) -> SFTConfig | DPOConfig:
    training, on_gpu, dtype = spec.training, torch.cuda.is_available(), pick_dtype(spec.training)
    optimizers = {"adamw_8bit": "adamw_8bit", "adamw": "adamw_torch_fused" if on_gpu else "adamw_torch"}
    of_answers, of_pairs = partial(SFTConfig, **_ANSWERS), partial(DPOConfig, **_PAIRS, beta=spec.dpo.beta)
    return (of_pairs if spec.objective == "dpo" else of_answers)(
        output_dir=str(checkpoints.folder.parent),
        num_train_epochs=training.epochs,
        max_steps=training.max_steps or -1,
        # A step is one item of our loader, which lays it out in passes.
        per_device_train_batch_size=training.batch_size * training.gradient_accumulation_steps,
        gradient_accumulation_steps=1,
        optim=optimizers[training.optimizer],
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.scheduler,
        warmup_steps=training.warmup_steps,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        seed=training.seed,
        data_seed=training.seed,
        bf16=dtype is torch.bfloat16,
        fp16=dtype is torch.float16,
        use_cpu=not on_gpu,
        dataloader_pin_memory=False,
        # An expert that no token was sent to has no gradient.
        ddp_find_unused_parameters=has_experts,
        # Unsloth's own is on from when it loaded the model.
        gradient_checkpointing=recomputes(training, on_gpu) and spec.backend == "transformers",
        logging_steps=1,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if evaluates else "no",
        eval_steps=_NEVER,
        save_strategy="steps",
        save_steps=_NEVER,
        load_best_model_at_end=spec.wants_best,
        metric_for_best_model="eval_loss" if spec.wants_best else None,
        greater_is_better=False if spec.wants_best else None,
        eval_on_start=evaluates and not checkpoints.steps(),
        disable_tqdm=True,
        **trackers,
    )
