"""What every objective's trainer does: steps of passes, evaluation and checkpoints, in Trainer's places."""

import contextlib
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file, load_model, save_model
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, Trainer, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState
from transformers.utils import ADAPTER_SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_NAME

from hone_contract.artifact import Artifact
from hone_contract.errors import BadInput
from hone_trainer.training.batches import Steps
from hone_trainer.training.checkpoints import Checkpoints
from hone_trainer.training.collating import Collator, Pass, nothing_learned
from hone_trainer.training.failures import Diverged
from hone_trainer.training.noise import Noise
from hone_trainer.training.ranks import first_does, gathered, rank, save_together
from hone_trainer.training.saving import write_trained
from hone_trainer.training.sharding import Shards
from hone_trainer.training.tokens import Tokenised


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


class Made(NamedTuple):
    """What a model makes of one pass. What counts are learned tokens, or preference pairs."""

    loss: torch.Tensor
    """Sum over what counts."""
    balance: torch.Tensor | None = None
    """A mixture of experts' balancing loss."""
    told: torch.Tensor | None = None
    """Sums over what counts of the trainer's `measures`."""


class Loop(Trainer):  # type: ignore[misc]
    """Stands before a trainer of TRL's. A step is one item of the loader, however many passes it takes."""

    looks: dict[str, list[Any]] = {}
    """A record for TRL, which looks what kind of data it is; ours are handed out by our own loader."""
    collates = Collator
    measures: tuple[str, ...] = ()
    """Names of the means that are told beside the loss."""

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        arguments: TrainingArguments,
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
        seen = Dataset.from_dict(self.looks)
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
        self._told: dict[str, float] = {}
        """The measures of the step that was done last."""
        _learn_in_float32(self.model)

    def made_of(self, model: Any, one: Pass) -> Made:
        """What the model makes of a pass."""
        raise NotImplementedError

    def counted(self, one: Pass) -> int:
        """How much of a pass counts."""
        raise NotImplementedError

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
            collate_fn=self.collator(),
        )

    def collator(self) -> Collator:
        """What lays the records of a step out in passes."""
        layout = self.layout
        return self.collates(self.data.train, layout.tokens_a_pass, layout.packed, layout.records_a_pass)

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: Any) -> torch.Tensor:
        count = torch.tensor(sum(step["counted"] for step in batch_samples), device=device)
        total: torch.Tensor = self.accelerator.reduce(count)
        return total

    def floating_point_ops(self, inputs: Any) -> int:
        return 0

    # -- one step --------------------------------------------------------------------------------------

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | None = None
    ) -> torch.Tensor:
        model.train()
        total = torch.zeros(1 + len(self.measures), device=self.args.device)
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
        return total[0]

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
        """This pass's share of the mean over all that counts in the step, to go back through and to show.

        What is shown are the loss and the measures. Times the processes, since their gradients are averaged.
        A mixture of experts learns besides from a loss that balances its load, a mean of each pass, which is
        not shown.
        """
        assert count is not None
        if self.noise is not None:
            self.noise.prepare(one)
        count = count.clamp(min=1)
        with self.compute_loss_context_manager():
            made = self.made_of(model, one)
            loss = made.loss / count * self.args.world_size
            shown = self._sums(made) / count * self.args.world_size
            if made.balance is not None:
                loss = loss + self.router_aux_loss_coef * made.balance / passes
        return loss, shown

    def _sums(self, made: Made) -> torch.Tensor:
        """Of the loss and the measures."""
        loss = made.loss.detach()[None]
        return loss if made.told is None else torch.cat([loss, made.told.to(loss.dtype)])

    def _count(self, total: torch.Tensor, tokens: int) -> float:
        """Counts the tokens of all processes; gives the mean of their losses, which is the step's."""
        means = total.double() / self.args.world_size
        of_this = torch.cat([means, means.new_tensor([tokens])])
        loss, *told, count = self.accelerator.reduce(of_this).tolist()
        self.state.num_input_tokens_seen += int(count)
        self._told = dict(zip(self.measures, told, strict=True))
        return float(loss)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        logs["num_tokens"] = self.state.num_input_tokens_seen
        if "loss" in logs:
            logs |= self._told
        Trainer.log(self, logs, start_time)

    # -- evaluation ------------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """`eval_loss`: the mean over all that counts, and means of the measures, likewise with `eval_`."""
        # DDP's own forward would have all processes meet at every pass.
        model = self.accelerator.unwrap_model(self.model)
        was_training = model.training
        model.eval()
        names = ["loss", *self.measures]
        sums = torch.zeros(len(names) + 1, dtype=torch.float64, device=self.args.device)
        failed: list[int] = []
        for records, one in self._evaluation_passes():
            with self.compute_loss_context_manager():
                made = self._sums(self.made_of(model, self._prepare_inputs(one))).double()
            failed += [] if torch.isfinite(made[0]) else records
            sums += torch.cat([made, made.new_tensor([self.counted(one)])])
        *means, _ = (sums := self.accelerator.reduce(sums)) / sums[-1]
        model.train(was_training)
        metrics = {f"eval_{name}": float(mean) for name, mean in zip(names, means, strict=True)}
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
        collate, records = self.collator(), self.data.eval
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
