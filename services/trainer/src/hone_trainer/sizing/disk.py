"""What a run leaves on the disk."""

from dataclasses import dataclass

from hone_contract.manifest import Manifest
from hone_contract.model_files import TOKENIZER_FILES
from hone_contract.run_spec import RunSpec
from hone_trainer.sizing.trainable import Trainable
from hone_trainer.sizing.workload import Workload

# What is trained is kept in float32, with AdamW's averages beside it.
_FLOAT32, _AVERAGES, _AVERAGES_8BIT = 4, 8, 2
# An id in 32 bits and whether it is learned.
_TOKEN = 5


@dataclass(frozen=True)
class Disk:
    """Bytes, by what they are for."""

    result: int
    """The adapter, or the weights that full fine-tuning makes."""
    checkpoint: int
    checkpoints: int
    """How many there are at most: those that stay, the best one if it is wanted, and one that is written."""
    tokens: int
    """The dataset as the model sees it."""
    merged: int
    """The model that hone-merger makes of it, in the base's number format."""

    @property
    def total(self) -> int:
        return self.result + self.checkpoint * self.checkpoints + self.tokens + self.merged


def disk(spec: RunSpec, trainable: Trainable, work: Workload, base: Manifest) -> Disk:
    """What the run adds to the store, and what merging it adds."""
    tokenizer = sum(file.size for file in base.files if file.path in TOKENIZER_FILES)
    weights = sum(file.size for file in base.files if file.path.endswith(".safetensors"))
    trained = _FLOAT32 * trainable.count
    averages = _AVERAGES_8BIT if spec.training.optimizer == "adamw_8bit" else _AVERAGES
    return Disk(
        result=trained + tokenizer,
        checkpoint=trained + averages * trainable.count,
        checkpoints=spec.checkpoints.keep + 1 + spec.wants_best,
        tokens=_TOKEN * work.tokens_an_epoch * (work.records + work.evaluation_records) // work.records,
        merged=weights + tokenizer,
    )
