"""`hone-trainer prepare`: a file of examples becomes a sealed dataset, split into train and eval."""

import json
import random
import re
from dataclasses import dataclass
from pathlib import Path

from hone_contract.artifact import Artifact, draft, open_artifact, seal
from hone_contract.data_spec import DataSpec
from hone_contract.manifest import Source, digest_of
from hone_contract.model_files import sha256_of
from hone_contract.store import Store
from hone_trainer.messages import read_records
from hone_trainer.record import Record

# Part of a dataset's id: raise it when the same files would be prepared differently.
_VERSION = 1


@dataclass(frozen=True)
class Split:
    """Records to learn from and records to be judged by; no record is in both."""

    train: list[Record]
    eval: list[Record]


def prepare(data: DataSpec, folder: Path, store: Store) -> Artifact:
    """Validate, split and seal the files that `data` names, relative to `folder`.

    The dataset's id comes from the files' content and the split, so preparing twice does nothing.
    Raises BadInput or BadConfiguration before anything is written.
    """
    train_file = folder / data.train
    eval_file = folder / data.eval if data.eval is not None else None
    split = _split(read_records(train_file), read_records(eval_file) if eval_file else None, data)
    files = {"train": train_file} | ({"eval": eval_file} if eval_file else {})
    lineage = {
        role: Source(id=file.name, digest=sha256_of(file.parent, file.name)) for role, file in files.items()
    }
    plan = {
        "version": _VERSION,
        "files": {role: source.digest for role, source in lineage.items()},
        "eval_fraction": data.eval_fraction,
        "seed": data.seed,
    }
    target = store.dataset(f"{_slug(train_file)}-{digest_of(plan)[:10]}")
    if target.exists():
        return open_artifact(target, "dataset", digests=True)
    with draft(target, plan) as partial:
        _write(partial, split)
        return seal(partial, "dataset", target.name, lineage=lineage)


def _split(train: list[Record], evaluation: list[Record] | None, data: DataSpec) -> Split:
    if evaluation is not None:
        return Split(train, evaluation)
    count = round(len(train) * data.eval_fraction)
    if data.eval_fraction > 0:
        # At least one to be judged by, but never the last one to learn from.
        count = min(max(1, count), len(train) - 1)
    chosen = set(random.Random(data.seed).sample(range(len(train)), count))
    return Split(
        [record for index, record in enumerate(train) if index not in chosen],
        [record for index, record in enumerate(train) if index in chosen],
    )


def _write(partial: Path, split: Split) -> None:
    for name, records in (("train", split.train), ("eval", split.eval)):
        lines = "".join(record.to_json() + "\n" for record in records)
        (partial / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    report = {"train_records": len(split.train), "eval_records": len(split.eval)}
    (partial / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _slug(path: Path) -> str:
    return re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-")[:40] or "data"
