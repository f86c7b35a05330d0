"""Learns which of two answers is the better one (https://arxiv.org/abs/2305.18290), by TRL's DPOTrainer.

Of TRL's are the settings, the checks and the fused head. Its data, its batches and the loss over them are
not used: it truncates what is too long, drops what is then empty, and means of batches depend on their sizes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from trl import DPOTrainer

from hone_trainer.chat.conversation import IGNORED
from hone_trainer.training.collating import PairCollator, Pass
from hone_trainer.training.heads import add_reduced
from hone_trainer.training.loop import Loop, Made
from hone_trainer.training.loss import token_logprobs
from hone_trainer.training.sharding import reshard

_COPY = "ref"


class Dpo(Loop, DPOTrainer):  # type: ignore[misc]
    """The loss is the mean of -log sigmoid(margin), in nats, every pair counting the same.

    The model it is compared with is the same one without its adapter.
    """

    looks = {"prompt": ["a"], "chosen": ["b"], "rejected": ["c"]}
    collates = PairCollator
    measures = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        # TRL copies an adapter that it did not make, to compare with; ours begins as nothing.
        if _COPY in self.model.peft_config:
            self.model.delete_adapter(_COPY)
        head = self.model.get_output_embeddings()
        is_frozen = not any(each.requires_grad for each in head.parameters())
        self._reduces = (
            self.args.device.type == "cpu" and is_frozen and add_reduced(self.model, token_logprobs)
        )

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset

    def counted(self, one: Pass) -> int:
        """Its pairs."""
        return int(_is_learned(one).sum())

    def made_of(self, model: Any, one: Pass) -> Made:
        with self._reference() as base:
            before, _ = self._answers(base, one)
        after, balance = self._answers(model, one)
        chosen, rejected = (self.beta * (after - before)).view(-1, 2).unbind(1)
        margins, counts = chosen - rejected, _is_learned(one)
        told = torch.stack([chosen, rejected, margins, (margins > 0).float()]).detach()
        return Made(-(F.logsigmoid(margins) * counts).sum(), balance, (told * counts).sum(1))

    @contextmanager
    def _reference(self) -> Iterator[Any]:
        """The base, as it is: nothing of it is dropped, and nothing is kept to go back through."""
        model = self.accelerator.unwrap_model(self.model)
        was_training = model.training
        model.eval()
        try:
            with torch.no_grad(), model.disable_adapter():
                yield model
                # What is learned is marked so again at the end, and a mark that is set on a weight which is
                # put together is lost with it.
                reshard(model)
        finally:
            model.train(was_training)

    def _answers(self, model: Any, one: Pass) -> tuple[torch.Tensor, torch.Tensor | None]:
        """log p of each answer, given its question, and a mixture's balancing loss."""
        balance = None
        if self._reduces:
            tokens = model(**one, reduced=True, use_cache=False).view_as(one["labels"])
        else:
            routed = {"output_router_logits": True} if self.aux_loss_enabled else {}
            outputs = model(**one, **routed, fused_lm_head=True, use_cache=False)
            # A first token is predicted by nothing.
            tokens = F.pad(outputs.log_probs.float(), (1, 0))
            balance = outputs.aux_loss if self.aux_loss_enabled else None
        return torch.stack([each.sum() for each in _sequences(tokens, one)]), balance


def _sequences(tokens: torch.Tensor, one: Pass) -> list[torch.Tensor]:
    """What is known of each token, sequence by sequence."""
    if (lengths := one.get("record_lengths")) is not None:
        return list(torch.split(tokens[0], lengths))
    return list(tokens)


def _is_learned(one: Pass) -> torch.Tensor:
    """1 for each pair but those from which nothing is learned."""
    learned = [(each != IGNORED).any() for each in _sequences(one["labels"], one)[::2]]
    return torch.stack(learned).float()
