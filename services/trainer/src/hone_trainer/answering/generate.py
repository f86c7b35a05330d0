"""`hone-trainer generate`: a model's own answers, through Transformers, without a server."""

import json
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from hone_contract.artifact import write_atomically
from hone_contract.events import Reporter
from hone_contract.progress import Progress
from hone_contract.run_spec import TrainingSpec
from hone_trainer.answering.answers import answer_all, prompt_of, stream_answer
from hone_trainer.answering.candidates import ask_each, tokenizer_of
from hone_trainer.answering.lookup import Found
from hone_trainer.answering.sampling import Sampling
from hone_trainer.models import pick_dtype, quiet
from hone_trainer.record import Record
from hone_trainer.reporting.terminal import harmless


def generate_file(
    found: Found,
    records: list[Record],
    sampling: Sampling,
    output: Path,
    reporter: Reporter,
    *,
    compare: bool,
) -> None:
    """Write `{"messages": [...]}` lines: each record's conversation, ending in the model's answer.

    With `compare` each line also has `answers`: the base's and the other's.
    """
    quiet()
    tokenizer = tokenizer_of(found.artifact, found.base)
    prompts = [prompt_of(tokenizer, record) for record in records]

    def ask(title: str, model: Any) -> list[str]:
        with Progress(f"{title}: answering", "prompts", len(prompts), reporter) as progress:
            return answer_all(model, tokenizer, prompts, sampling, progress.advance)

    answers = ask_each(found, pick_dtype(TrainingSpec()), ask, compare=compare)
    lines = []
    for index, record in enumerate(records):
        said = {title: given[index] for title, given in answers.items()}
        # The last that was asked is what was named; before it stands what it is compared with.
        messages = [*record.messages[:-1], {"role": "assistant", "content": [*said.values()][-1]}]
        line: dict[str, Any] = {"messages": messages} | ({"answers": said} if compare else {})
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    write_atomically(output, "".join(lines))


def generate_here(
    found: Found,
    record: Record,
    sampling: Sampling,
    reporter: Reporter,
    *,
    compare: bool,
    show: str | None = None,
) -> None:
    """Write the answer to standard output as it comes; with `compare` the base's and the other's.

    With `show`, a title, the conversation and the answer that is expected come first.
    """
    quiet()
    tokenizer = tokenizer_of(found.artifact, found.base)
    prompt = prompt_of(tokenizer, record)
    titled = compare or show is not None
    if show is not None:
        _show(record, show, sys.stdout)

    def ask(title: str, model: Any) -> None:
        if titled:
            print(f"── {title}", flush=True)
        start = time.monotonic()
        tokens = stream_answer(model, tokenizer, prompt, sampling, sys.stdout)
        seconds = time.monotonic() - start
        rate = tokens / max(1e-9, seconds)
        reporter.tell(
            "answered", f"{title}: {tokens} tokens, {rate:.1f} a second", model=title, tokens=tokens
        )

    ask_each(found, pick_dtype(TrainingSpec()), ask, compare=compare)


def _show(record: Record, title: str, out: TextIO) -> None:
    *asked, answer = record.messages
    print(f"── {title}", file=out)
    shown = [f"{message['role']}: {_said(message)}" for message in asked] + ["── expected", _said(answer)]
    for text in shown:
        print(harmless(text) if out.isatty() else text, file=out, flush=True)


def _said(message: dict[str, Any]) -> str:
    """A message's text, or the calls that it makes."""
    calls = message.get("tool_calls")
    return message["content"] or (json.dumps(calls, ensure_ascii=False) if calls else "")
