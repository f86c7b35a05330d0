"""The other side of bench/train.py: TRL's SFTTrainer with its own collator, on the same records.

Prints one JSON line: real tokens, seconds of the training loop, tokens a second. Saves the adapter.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer


def main() -> None:
    settings = json.loads(sys.argv[1])
    lines = Path(settings["data"]).read_text(encoding="utf-8").splitlines()
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(settings["base"], dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(settings["base"]),
        args=_arguments(settings),
        train_dataset=Dataset.from_list([_split(line) for line in lines]),
        peft_config=LoraConfig(
            r=settings["r"],
            lora_alpha=2 * settings["r"],
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        ),
    )
    seconds = trainer.train().metrics["train_runtime"]
    trainer.model.save_pretrained(settings["output"], save_embedding_layers=False)
    tokens = next(each["num_tokens"] for each in reversed(trainer.state.log_history) if "num_tokens" in each)
    print(json.dumps({"tokens": tokens, "seconds": seconds, "tokens_per_second": tokens / seconds}))


def _arguments(settings: dict[str, Any]) -> SFTConfig:
    return SFTConfig(
        output_dir=settings["output"],
        num_train_epochs=1,
        per_device_train_batch_size=settings["batch_size"],
        gradient_accumulation_steps=settings["accumulation"],
        learning_rate=settings["learning_rate"],
        lr_scheduler_type="linear",
        seed=settings["seed"],
        data_seed=settings["seed"],
        max_length=2048,
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def _split(line: str) -> dict[str, object]:
    """TRL learns only the completion of a prompt and a completion; Hone learns the same tokens."""
    messages = json.loads(line)["messages"]
    return {"prompt": messages[:-1], "completion": messages[-1:]}


if __name__ == "__main__":
    main()
