"""`hone-trainer generate`: a base model's own answers, through Transformers, without a server."""

import json
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from hone_contract.artifact import Artifact
from hone_contract.run_spec import TrainingSpec
from hone_trainer.conversation import render_prompt
from hone_trainer.probing import end_tokens
from hone_trainer.record import Record
from hone_trainer.scoring import say
from hone_trainer.train import pick_dtype


def answer(base: Artifact, records: list[Record], max_new_tokens: int, output: Path) -> None:
    """Write `{"messages": [...]}` lines: each record's conversation, ending in the model's answer."""
    transformers_logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(base.path)
    model: Any = AutoModelForCausalLM.from_pretrained(base.path, dtype=pick_dtype(TrainingSpec()))
    prompts = [render_prompt(tokenizer, record.messages[:-1]) for record in records]
    answers = say(model, prompts, max_new_tokens, end_tokens(model, tokenizer))
    with output.open("w", encoding="utf-8") as file:
        for record, tokens in zip(records, answers, strict=True):
            said = {"role": "assistant", "content": tokenizer.decode(tokens, skip_special_tokens=True)}
            file.write(json.dumps({"messages": [*record.messages[:-1], said]}, ensure_ascii=False) + "\n")
