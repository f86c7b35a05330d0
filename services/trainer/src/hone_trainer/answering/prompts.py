"""What a model is to be asked: a prompt, a file of them, or a record of the data that it learned from."""

import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from hone_contract.artifact import open_artifact
from hone_contract.errors import BadConfiguration, BadInput
from hone_contract.store import Store
from hone_trainer.answering.lookup import Found, find_run
from hone_trainer.data.one_file import read_records
from hone_trainer.record import Message, Record, load_records


@dataclass(frozen=True)
class Draw:
    """A record drawn from a dataset, and the number that draws it again."""

    record: Record
    seed: int


def one_prompt(text: str, system: str | None) -> Record:
    """A record whose answer is left out, as the last of every record that is asked."""
    if not text.strip():
        raise BadConfiguration("--prompt: holds nothing to ask; give it a text")
    return _asked([{"role": "user", "content": text}], "--prompt", system)


def read_prompts(path: Path, system: str | None) -> list[Record]:
    """A `.txt` with one prompt a line, or a file of records, whose last answers are then left out.

    Raises BadConfiguration when it cannot be read, BadInput when it holds nothing to ask.
    """
    if path.suffix == ".txt":
        return _read_lines(path, system)
    return [_with_system(record, system) for record in read_records(path, answered=False)]


def draw_record(found: Found, store: Store, seed: int | None) -> Draw:
    """A record of the dataset that a run learned from, of those set aside for evaluation if it has any.

    Raises BadConfiguration when it is not known which dataset that was.
    """
    source = dataset_of(found, store)
    if source is None:
        raise BadConfiguration(
            f"--random: nothing tells what {found.run_id} learned from; give --prompt, or a file"
        )
    records = load_records(source / "eval.jsonl") or load_records(source / "train.jsonl")
    seed = secrets.randbelow(10**6) if seed is None else seed
    return Draw(Random(seed).choice(records).conversations[0], seed)


def dataset_of(found: Found, store: Store) -> Path | None:
    """The folder of the dataset that a run learned from. None: it was made elsewhere."""
    run = find_run(store, found.run_id) if found.made_of is not None else found
    source = run.artifact.manifest.lineage.get("dataset")
    return None if source is None else open_artifact(store.dataset(source.id), "dataset").path


def _read_lines(path: Path, system: str | None) -> list[Record]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError as error:
        raise BadConfiguration(f"{path}: there is no such file; name a file of prompts") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: is not UTF-8 at byte {error.start}; save it as UTF-8") from error
    asked = [
        _asked([{"role": "user", "content": line.strip()}], f"{path.name}:{number}", system)
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not asked:
        raise BadInput(f"{path}: holds no prompt")
    return asked


def _asked(messages: list[Message], place: str, system: str | None) -> Record:
    answer: dict[str, Any] = {"role": "assistant", "content": ""}
    return _with_system(Record([*messages, answer], place), system)


def _with_system(record: Record, system: str | None) -> Record:
    """Records that have a system prompt of their own keep it."""
    if system is None or record.messages[0]["role"] == "system":
        return record
    return replace(record, messages=[{"role": "system", "content": system}, *record.messages])
