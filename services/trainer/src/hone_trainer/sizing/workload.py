"""How much a run computes: its steps, its tokens, and the largest of its forward passes."""

import math
from dataclasses import dataclass, replace
from typing import Any

from hone_contract.run_spec import RunSpec, TrainingSpec
from hone_trainer.training.batches import tokens_per_pass


@dataclass(frozen=True)
class Workload:
    """What there is to learn, and in how many steps."""

    records: int
    evaluation_records: int
    tokens_an_epoch: int
    longest: int
    """Tokens of the longest record, of a preference pair those of both conversations."""
    longest_conversation: int
    conversations: int
    """Of a record: 2 in preference pairs."""
    records_a_step: int
    """On one process."""
    steps: int
    tokens: int
    """In all."""
    fullest_step: int
    """Tokens that the step with the most of them is expected to have on one process."""

    def largest_pass(self, training: TrainingSpec, on_gpu: bool) -> int:
        """Tokens of the largest forward pass, padding counted."""
        alone = self.longest_alone(training)
        most = max(alone, tokens_per_pass(training, on_gpu))
        if training.packing is False:
            return min(most, alone * min(training.batch_size, self.records_a_step))
        return max(alone, min(most, self.fullest_step))

    def longest_alone(self, training: TrainingSpec) -> int:
        """Tokens of the longest pass that holds one record; padding makes a pair's conversations alike."""
        return self.conversations * self.longest_conversation if training.packing is False else self.longest

    def limited(self, tokens: int) -> "Workload":
        """Without the records that have a conversation of more tokens."""
        return replace(
            self, longest=min(self.longest, self.conversations * tokens), longest_conversation=tokens
        )


def workload(spec: RunSpec, report: dict[str, Any], processes: int) -> Workload:
    """From the spec and the dataset's report.json; `processes` share each step."""
    training, counted = spec.training, report["tokens"]
    records, conversations = report["train_records"], 2 if spec.objective == "dpo" else 1
    a_step = training.batch_size * training.gradient_accumulation_steps
    an_epoch = math.ceil(records / (a_step * processes))
    steps = training.max_steps or math.ceil(training.epochs * an_epoch)
    return Workload(
        records=records,
        evaluation_records=report["eval_records"],
        tokens_an_epoch=counted["per_epoch"],
        longest=counted["longest"],
        # Absent where a record is one conversation, and in older reports of pairs.
        longest_conversation=counted.get("longest_conversation", -(-counted["longest"] // conversations)),
        conversations=conversations,
        records_a_step=min(a_step, records),
        steps=steps,
        tokens=round(counted["per_epoch"] * steps / an_epoch),
        fullest_step=_fullest(min(a_step, records), steps, counted),
    )


def _fullest(records: int, steps: int, counted: dict[str, Any]) -> int:
    """The sum of `records` random lengths, at its largest over so many steps.

    Its mean and sqrt(2 ln steps) standard deviations, which the largest of as many normal numbers comes near
    to (Boucheron, Lugosi, Massart, Concentration Inequalities, section 2.5).
    """
    bars = [((bar["from"] + bar["to"]) / 2, bar["records"]) for bar in counted["histogram"]]
    count = sum(number for _, number in bars)
    mean = sum(length * number for length, number in bars) / count
    variance = sum(number * (length - mean) ** 2 for length, number in bars) / count
    fullest: float = records * mean + math.sqrt(2 * math.log(max(1, steps)) * records * variance)
    longest: int = counted["longest"]
    return round(min(fullest, records * longest))
