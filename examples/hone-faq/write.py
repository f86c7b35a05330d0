"""Make train.jsonl and held_out.jsonl from facts.yaml, in OpenAI's messages JSONL.

Run it after every edit of facts.yaml; a test compares the committed files with what this makes.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from score import Fact, load_facts

HERE = Path(__file__).resolve().parent


def training_records(facts: Sequence[Fact]) -> list[str]:
    """Every fact's first phrasing, then every second one: a batch never holds one fact only."""
    rounds = zip(*(fact.questions for fact in facts), strict=True)
    pairs = (zip(questions, facts, strict=True) for questions in rounds)
    return [record(question, fact) for turn in pairs for question, fact in turn]


def held_out_records(facts: Sequence[Fact]) -> list[str]:
    """One record a fact, in a phrasing that no training record has."""
    return [record(fact.held_out, fact) for fact in facts]


def record(question: str, fact: Fact) -> str:
    """One line of JSONL. No system message: a chat client sends none either."""
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": fact.answer}]
    return json.dumps({"messages": turns}, ensure_ascii=False)


def write(path: Path, lines: Iterable[str]) -> None:
    """Write the same bytes on every system."""
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8", newline="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE, help="folder (default: this script's)")
    folder: Path = parser.parse_args().out
    facts = load_facts(HERE / "facts.yaml")
    files = {"train.jsonl": training_records(facts), "held_out.jsonl": held_out_records(facts)}
    for name, lines in files.items():
        write(folder / name, lines)
        sys.stdout.write(f"{folder / name}: {len(lines)} records\n")


if __name__ == "__main__":
    main()
