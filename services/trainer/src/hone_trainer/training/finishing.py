"""After the last step: what was trained is read back as it was written, proven, and shown."""

import json
import shutil
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from hone_contract.model_files import CHAT_TEMPLATE, TOKENIZER_FILES
from hone_contract.probes import write_probes
from hone_trainer.answering.probing import Question, add_trained, end_tokens, make_probes, questions
from hone_trainer.answering.scoring import say
from hone_trainer.chat.chat_templates import load_tokenizer
from hone_trainer.models import Pair, load_trained, open_pair, pick_dtype
from hone_trainer.plan import Plan
from hone_trainer.record import Record, load_records
from hone_trainer.reporting.run_report import Sample

_SAMPLES = 4
_SAMPLE_TOKENS = 48


def finish(plan: Plan, folder: Path) -> list[Sample]:
    """Add tokenizer and probes to the trained files in `folder`; returns samples for the report.

    The probes come from the files themselves, on the base as it is in the store, since a server has it so.
    Where training had it in 4 bits, the probes have what the model was then, too.
    """
    _write_tokenizer(plan, folder)
    tokenizer = load_tokenizer(plan.base.path, plan.chat_template)
    asked = questions(tokenizer, _records(plan))
    dtype = pick_dtype(plan.spec.training)
    pair = open_pair(folder, plan.base.path, dtype)
    probes = make_probes(pair, tokenizer, folder, asked)
    samples = _samples(pair, tokenizer, asked[:_SAMPLES])
    del pair
    if plan.spec.method == "qlora":
        probes = add_trained(probes, load_trained(folder, plan.base.path, dtype))
    write_probes(folder, probes)
    return samples


def _records(plan: Plan) -> list[Record]:
    found = load_records(plan.dataset.path / "eval.jsonl") or load_records(plan.dataset.path / "train.jsonl")
    return [record.conversations[0] for record in found]


def _samples(pair: Pair, tokenizer: PreTrainedTokenizerBase, asked: list[Question]) -> list[Sample]:
    prompts, end = [question.prompt for question in asked], end_tokens(pair.tuned, tokenizer)
    after = say(pair.tuned, prompts, _SAMPLE_TOKENS, end)
    with pair.as_base() as base:
        before = say(base, prompts, _SAMPLE_TOKENS, end)
    return [
        Sample(
            question.messages[-1]["content"],
            tokenizer.decode(before[index], skip_special_tokens=True),
            tokenizer.decode(after[index], skip_special_tokens=True),
            question.reference,
        )
        for index, question in enumerate(asked)
    ]


def _write_tokenizer(plan: Plan, folder: Path) -> None:
    """The base's own files, byte for byte, but for a chat template that the spec chooses."""
    for name in TOKENIZER_FILES:
        if (plan.base.path / name).is_file():
            shutil.copyfile(plan.base.path / name, folder / name)
    if plan.spec.model.chat_template is None:
        return
    (folder / CHAT_TEMPLATE).write_text(plan.chat_template, encoding="utf-8")
    config_file = folder / "tokenizer_config.json"
    config = json.loads(config_file.read_text(encoding="utf-8")) if config_file.is_file() else {}
    if "chat_template" in config:
        config["chat_template"] = plan.chat_template
        config_file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
