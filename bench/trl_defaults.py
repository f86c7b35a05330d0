"""The other side of `bench/training.py`: TRL as its documentation has it, on the same records.

Prints one JSON line: tokens, seconds of the training loop, tokens a second.
"""

import json
import sys
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer


def main() -> None:
    base, data, steps, batch_size = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(base),
        args=SFTConfig(
            output_dir=str(Path.cwd() / "trl"),
            max_steps=steps,
            per_device_train_batch_size=batch_size,
            learning_rate=1e-3,
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list([_split(line) for line in data.read_text().splitlines()]),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    seconds = trainer.train().metrics["train_runtime"]
    tokens = next(
        entry["num_tokens"] for entry in reversed(trainer.state.log_history) if "num_tokens" in entry
    )
    print(json.dumps({"tokens": tokens, "seconds": seconds, "tokens_per_second": tokens / seconds}))


def _split(line: str) -> dict[str, object]:
    """TRL learns only the completion of a prompt and a completion; Hone learns the same tokens."""
    messages = json.loads(line)["messages"]
    return {"prompt": messages[:-1], "completion": messages[-1:]}


if __name__ == "__main__":
    main()
