"""TRL's SFTTrainer, with Hone's passes, loss, evaluation and checkpoints in their places."""

import contextlib
import math
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file, load_model, save_model
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, Trainer, TrainerControl, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState
from transformers.utils import ADAPTER_SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_NAME
from trl import SFTConfig, SFTTrainer

from hone_contract.artifact import Artifact
from hone_contract.errors import BadInput
from hone_trainer.chat.conversation import IGNORED
from hone_trainer.training.batches import Steps
from hone_trainer.training.checkpoints import Checkpoints
from hone_trainer.training.collating import Collator, Pass, nothing_learned
from hone_trainer.training.failures import Diverged
from hone_trainer.training.loss import summed_loss as loss_of
from hone_trainer.training.noise import Noise
from hone_trainer.training.ranks import first_does, gathered, rank, save_together
from hone_trainer.training.saving import write_trained
from hone_trainer.training.sharding import Shards
from hone_trainer.training.tokens import Tokenised

# Settings of heads that change the logits; TRL's fused head knows them all.
_HEAD_SETTINGS = (
    "final_logit_softcapping",
    "logit_scale",
    "output_multiplier",
    "lm_head_multiplier",
    "logits_scaling",
)


@dataclass(frozen=True)
class Layout:
    """How records become passes."""

    records_a_step: int
    """On one process."""
    tokens_a_pass: int
    packed: bool
    records_a_pass: int
    """Of padded passes, at most."""


class StepLoader(DataLoader):  # type: ignore[type-arg]
    """A data loader whose items are steps; Trainer tells it the epoch."""

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]


class Sft(SFTTrainer):  # type: ignore[misc]
    """Trains on tokenised records. A step is one item of the loader, however many passes it takes."""

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        arguments: SFTConfig,
        data: Tokenised,
        layout: Layout,
        checkpoints: Checkpoints,
        callbacks: list[Any],
        stored_as: torch.dtype,
        sharded: bool = False,
    ) -> None:
        self._shards: Shards | None = None
        # Its parts will be moved to the device, not all of it.
        self.place_later = sharded
        # TRL looks at a record to see what kind of data it is; ours are handed out by our own loader.
        seen = Dataset.from_dict({"input_ids": [[0, 0]], "labels": [[0, 0]]})
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=seen,
            eval_dataset=seen if len(data.eval) else None,
            processing_class=tokenizer,
            callbacks=callbacks,
        )
        self.data = data
        self.control: TrainerControl
        self.layout = layout
        self.checkpoints = checkpoints
        self.stored_as = stored_as
        self.noise: Noise | None = None
        self._records: list[int] = []
        """Of the step that is being done."""
        _learn_in_float32(self.model)
        self._sums = self.args.device.type == "cpu" and _add_summed_loss(self.model)

    def _move_model_to_device(self, model: Any, device: torch.device) -> None:
        if not self.place_later:
            super()._move_model_to_device(model, device)

    def shard(self, computes_in: torch.dtype) -> None:
        """Share the model out over the processes, all of which do this at the same time."""
        self._shards = Shards(self.model, self.args.device, computes_in)
        # As if it had been loaded so: Trainer then wraps it in nothing of its own.
        self.is_distributed_loading_by_transformers = True

    # -- data ------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> StepLoader:
        world = self.args.world_size
        steps = Steps(
            len(self.data.train),
            self.layout.records_a_step * world,
            self.args.seed,
            rank=self.args.process_index,
            world=world,
        )
        return StepLoader(
            self.data.train,  # type: ignore[arg-type]
            batch_sampler=steps,
            collate_fn=self._collator(),
        )

    def _collator(self) -> Collator:
        layout = self.layout
        return Collator(self.data.train, layout.tokens_a_pass, layout.packed, layout.records_a_pass)

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: Any) -> torch.Tensor:
        count = torch.tensor(sum(step["learned"] for step in batch_samples), device=device)
        total: torch.Tensor = self.accelerator.reduce(count)
        return total

    def floating_point_ops(self, inputs: Any) -> int:
        return 0

    # -- one step --------------------------------------------------------------------------------------

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | None = None
    ) -> torch.Tensor:
        model.train()
        total = torch.zeros((), device=self.args.device)
        passes = self._equally_many(inputs["passes"])
        for index, one in enumerate(passes):
            # Gradients that are split are brought together at once: a whole one would be kept meanwhile.
            together = self._shards is not None or index == len(passes) - 1
            with contextlib.nullcontext() if together else self.accelerator.no_sync(model):
                loss, shown = self._mean_loss(
                    model, self._prepare_inputs(one), num_items_in_batch, len(passes)
                )
                self.accelerator.backward(loss)
            total += shown
            del loss
        loss_of_all = self._count(total, inputs["tokens"])
        if not math.isfinite(loss_of_all):
            raise self._diverged(f"loss is {loss_of_all}", inputs["records"])
        self._records = inputs["records"]
        return total

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        # With float16 a norm that is none is no failure: the scale of the loss is lowered, the step left out.
        if self.accelerator.scaler is None and not math.isfinite(norm):
            raise self._diverged(f"norm of the gradients is {float(norm)}", self._records)
        return norm

    def _diverged(self, told: str, records: list[int]) -> Diverged:
        step = self.state.global_step
        return self._of_all(Diverged(step, f"in step {step + 1} the {told}", records))

    def _of_all(self, failure: Diverged) -> Diverged:
        """All processes fail at the same time; the first one tells, of the records of them all."""
        failure.records = [number for part in gathered(failure.records) for number in part]
        if rank() != 0:
            sys.exit(BadInput.exit_code)
        return failure

    def _equally_many(self, passes: list[Pass]) -> list[Pass]:
        """Processes that put weights together must call the model equally often."""
        if self._shards is None:
            return passes
        most = torch.tensor(len(passes), device=self.args.device)
        torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
        return [nothing_learned(passes[0])] * (int(most) - len(passes)) + passes

    def _mean_loss(
        self, model: Any, one: Pass, count: torch.Tensor | None, passes: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """This pass's share of the mean over all learned tokens of the step, to go back through and to show.

        Times the processes, since their gradients are averaged. A mixture of experts learns besides from a
        loss that balances its load, a mean of each pass, which is not shown.
        """
        assert count is not None
        if self.noise is not None:
            self.noise.prepare(one)
        with self.compute_loss_context_manager():
            total, balance = self._losses(model, one)
            shown = total.detach() / count.clamp(min=1) * self.args.world_size
            loss = total / count.clamp(min=1) * self.args.world_size
            if balance is not None:
                loss = loss + self.router_aux_loss_coef * balance / passes
        return loss, shown

    def _losses(self, model: Any, one: Pass) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Sum of the learned tokens' cross-entropies, and a mixture's balancing loss."""
        if self._sums:
            return model(**one, summed_loss=True, use_cache=False), None
        outputs = model(**one, fused_lm_head=True, use_cache=False)
        return -outputs.log_probs.sum(), outputs.aux_loss if self.aux_loss_enabled else None

    def _count(self, total: torch.Tensor, tokens: int) -> float:
        """Counts the tokens of all processes; gives the mean of their losses, which is the step's."""
        of_this = torch.tensor([float(total) / self.args.world_size, tokens], dtype=torch.float64)
        loss, count = self.accelerator.reduce(of_this.to(self.args.device)).tolist()
        self.state.num_input_tokens_seen += int(count)
        return float(loss)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        logs["num_tokens"] = self.state.num_input_tokens_seen
        Trainer.log(self, logs, start_time)

    # -- evaluation ------------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """`eval_loss`: mean cross-entropy in nats of a learned token, every token counting the same."""
        # DDP's own forward would have all processes meet at every pass.
        model = self.accelerator.unwrap_model(self.model)
        was_training = model.training
        model.eval()
        sums = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        failed: list[int] = []
        for records, one in self._evaluation_passes():
            learned = int((one["labels"] != IGNORED).sum())
            with self.compute_loss_context_manager():
                loss = self._losses(model, self._prepare_inputs(one))[0]
            failed += [] if torch.isfinite(loss) else records
            sums += torch.tensor([float(loss), learned], dtype=torch.float64, device=sums.device)
        sums = self.accelerator.reduce(sums)
        model.train(was_training)
        metrics = {"eval_loss": float(sums[0] / sums[1])}
        if not math.isfinite(metrics["eval_loss"]):
            when = (
                f"after step {self.state.global_step}" if self.state.global_step else "before the first step"
            )
            told = f"{when} the evaluation loss is {metrics['eval_loss']}"
            raise self._of_all(Diverged(self.state.global_step, told, failed, "eval"))
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _evaluation_passes(self) -> Iterator[tuple[list[int], Pass]]:
        """This process's, with the numbers of their records.

        Equally many for each, so the last may be one from which nothing is counted.
        """
        collate, records = self._collator(), self.data.eval
        groups = collate.groups(records.lengths)
        for start in range(0, len(groups), self.args.world_size):
            index = start + self.args.process_index
            group = groups[min(index, len(groups) - 1)]
            one = collate.lay([records[place] for place in group])
            yield (group, one) if index < len(groups) else ([], nothing_learned(one))

    # -- checkpoints -----------------------------------------------------------------------------------

    def resume(self, checkpoint: Artifact | None) -> None:
        """Train to the end, from the checkpoint's state if there is one."""
        if checkpoint is None:
            self.train()
        elif checkpoint.manifest.metrics["finished"]:
            # Trainer would forget that early stopping had ended it.
            self._take_up(checkpoint.path)
        else:
            self.train(resume_from_checkpoint=str(checkpoint.path))

    def write(self, folder: Path | None) -> None:
        """Write what was trained, whole weights in the number format of the base.

        Every process calls it; `folder` is that of the first one.
        """
        model = self.accelerator.unwrap_model(self.model)
        dtype = None if isinstance(model, PeftModel) else self.stored_as
        if self._shards is not None:
            state = self._shards.whole(dtype)
        elif dtype is not None and folder is not None:
            model, state = model.to(dtype), None
        else:
            state = None
        if folder is not None:
            write_trained(model, folder, state)

    def _take_up(self, checkpoint: Path) -> None:
        self.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        self.callback_handler.on_train_begin(self.args, self.state, self.control)
        self.callback_handler.on_train_end(self.args, self.state, self.control)
        best = self._best if self.args.load_best_model_at_end else None
        self._load_from_checkpoint(str(best or checkpoint))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """All processes write into one folder, which the first makes and seals."""
        step = self.state.global_step
        if first_does(lambda: step in self.checkpoints.steps()):
            return
        metrics = {
            "step": float(step),
            "processes": float(self.args.world_size),
            "finished": float(self.control.should_training_stop),
        }
        if self.state.best_global_step is not None:
            metrics["best"] = float(self.state.best_global_step)
        self.state.best_model_checkpoint = str(self._best) if self._best else None
        state = self._adapter_of_shards()
        save_together(self.checkpoints, step, lambda folder: self._write_checkpoint(folder, state), metrics)
        if self.args.should_save:
            self.checkpoints.prune()

    @property
    def _best(self) -> Path | None:
        """By its step: the store may lie elsewhere than when the checkpoint was written."""
        step = self.state.best_global_step
        return None if step is None else self.checkpoints.place(step)

    def _load_callback_state(self) -> None:
        """What a callback had counted, such as evaluations without a lower loss."""
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, ExportableState):
                saved: Any = self.state.stateful_callbacks.get(type(callback).__name__, {})
                vars(callback).update(saved.get("attributes", {}))

    def _adapter_of_shards(self) -> dict[str, Any] | None:
        """Put together before anything is written: a process that fails to write keeps no other waiting."""
        if self._shards is None or not isinstance(self.model, PeftModel):
            return None
        return self._shards.whole()

    def _write_checkpoint(self, folder: Path, adapter: dict[str, Any] | None = None) -> None:
        if self._shards is None:
            self.save_model(str(folder), _internal_call=True)
        elif adapter:
            self._save(str(folder), adapter)
        self._save_optimizer_and_scheduler(str(folder))
        self._save_scaler(str(folder))
        self._save_rng_state(str(folder))
        if not self.args.should_save:
            return
        for callback in [*self.callback_handler.callbacks, self.control]:
            if isinstance(callback, ExportableState):
                self.state.stateful_callbacks[type(callback).__name__] = callback.state()
        self.state.save_to_json(str(folder / TRAINER_STATE_NAME))

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        # Trainer puts the tokenizer and its pickled arguments beside the weights.
        model, folder = self.accelerator.unwrap_model(self.model), Path(str(output_dir))
        if isinstance(model, PeftModel):
            write_trained(model, folder, state_dict)
            return
        # As the model has them: Transformers would write a mixture's experts under their names in the base,
        # and not find them again.
        folder.mkdir(exist_ok=True)
        save_model(model, str(folder / SAFE_WEIGHTS_NAME))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        model = self.model if model is None else model
        if self._shards is not None:
            self._shards.read(Path(resume_from_checkpoint))
            return
        folder = Path(resume_from_checkpoint)
        if not isinstance(model, PeftModel):
            load_model(model, folder / SAFE_WEIGHTS_NAME)
            return
        # PEFT's own load_adapter would change the number format of some weights.
        found = set_peft_model_state_dict(model, load_file(folder / ADAPTER_SAFE_WEIGHTS_NAME))
        assert not found.unexpected_keys, found.unexpected_keys

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(str(self._best))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self._shards is None:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        self._shards.write(Path(output_dir), self.optimizer, self.lr_scheduler)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self._shards is None or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        self._shards.read_optimizer(Path(checkpoint), self.optimizer, self.lr_scheduler)


def _learn_in_float32(model: Any) -> None:
    """TRL makes the adapter of a base in 4 bits bfloat16, in which small steps are lost."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype is not torch.float32:
            parameter.data = parameter.data.float()


def _add_summed_loss(model: Any) -> bool:
    """Let `model(..., labels=…, summed_loss=True)` give the loss without all logits; False if it cannot.

    On a GPU TRL's fused head does so with a kernel of its own, and it knows heads that this does not.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    config, head = base.config.get_text_config(), base.get_output_embeddings()
    changed = any(getattr(config, name, None) not in (None, 1.0) for name in _HEAD_SETTINGS)
    mixture = getattr(config, "output_router_logits", None) is not None
    if base.base_model is base or type(head) is not torch.nn.Linear or changed or mixture:
        return False
    original = base.forward

    @wraps(type(base).forward)
    def forward(
        self: Any, *arguments: Any, summed_loss: bool = False, labels: Any = None, **options: Any
    ) -> Any:
        if not summed_loss:
            return original(*arguments, **options, **({} if labels is None else {"labels": labels}))
        hidden = self.base_model(*arguments, **options).last_hidden_state
        # A row's first token has no label, so the rows can stand one after another.
        return loss_of(hidden.flatten(0, 1), self.get_output_embeddings(), labels.flatten())

    base.forward = types.MethodType(forward, base)
    return True
