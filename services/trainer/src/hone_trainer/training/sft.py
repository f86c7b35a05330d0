"""Learns what the assistant says, by TRL's SFTTrainer."""

from typing import Any

from trl import SFTTrainer

from hone_trainer.chat.conversation import IGNORED
from hone_trainer.training.collating import Pass
from hone_trainer.training.heads import add_reduced
from hone_trainer.training.loop import Loop, Made
from hone_trainer.training.loss import summed_loss


class Sft(Loop, SFTTrainer):  # type: ignore[misc]
    """The loss is the mean cross-entropy of a learned token, in nats, every token counting the same."""

    looks = {"input_ids": [[0, 0]], "labels": [[0, 0]]}

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._reduces = self.args.device.type == "cpu" and add_reduced(self.model, summed_loss)

    def counted(self, one: Pass) -> int:
        """Its learned tokens."""
        return int((one["labels"] != IGNORED).sum())

    def made_of(self, model: Any, one: Pass) -> Made:
        if self._reduces:
            return Made(model(**one, reduced=True, use_cache=False))
        outputs = model(**one, fused_lm_head=True, use_cache=False)
        return Made(-outputs.log_probs.sum(), outputs.aux_loss if self.aux_loss_enabled else None)
