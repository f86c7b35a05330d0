"""What a run is going to be, settled and validated before torch is imported."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hone_contract.artifact import Artifact
from hone_contract.data_spec import DataSpec
from hone_contract.errors import BadConfiguration, BadInput
from hone_contract.events import Reporter
from hone_contract.manifest import Kind, Source, digest_of
from hone_contract.run_spec import RunSpec
from hone_contract.spec_file import load_run_spec
from hone_contract.store import Store
from hone_trainer.base import BaseSource, import_base, is_folder, locate
from hone_trainer.chat.template_choice import chosen_template, own_template
from hone_trainer.data.dataset import Counting, prepare
from hone_trainer.data.tokeniser import Tokeniser
from hone_trainer.fast_train import is_fast, shorten

# Part of every run's id: raise it when the same spec would train something else.
_VERSION = 2


@dataclass(frozen=True)
class Plan:
    """A run whose parts are all there."""

    spec: RunSpec
    base: Artifact
    dataset: Artifact
    chat_template: str
    """Its text: the base's own, or the one that the spec chooses."""
    run_id: str
    """Made from what the run is, so that the same run is never trained twice."""

    @property
    def base_name(self) -> str:
        """The base as the spec has it, but for a folder, whose path means nothing elsewhere."""
        name = self.spec.model.name
        return self.base.manifest.id if is_folder(name) else name

    def target(self, store: Store) -> Path:
        """Where what it makes will be sealed."""
        return store.weights(self.run_id) if self.spec.method == "full" else store.adapter(self.run_id)

    @property
    def kind(self) -> Kind:
        """What it will be."""
        return "weights" if self.spec.method == "full" else "adapter"

    @property
    def lineage(self) -> dict[str, Source]:
        return {
            "base": self.base.source,
            "dataset": self.dataset.source,
            "spec": Source(id=self.run_id, digest=_spec_digest(self.spec)),
        }


def prepare_data(
    spec_file: Path, data_file: Path | None, store: Store, *, strict: bool = False
) -> tuple[RunSpec, Artifact]:
    """Read the spec, then validate and seal its data; `data_file` stands in for all that `data` names.

    With `strict` the first bad record refuses it, as with `data.strict`.

    Once the data was found good, its tokens are counted. For that the base is brought into the store, but
    none from the Hub: it may be large.
    """
    spec, dataset, _ = _prepare(spec_file, data_file, store, download=False, strict=strict)
    return spec, dataset


def make_plan(
    spec_file: Path, data_file: Path | None, store: Store, reporter: Reporter | None = None
) -> Plan:
    """Everything that a run needs, from its spec; fetches the base when the store lacks it.

    Raises BadConfiguration or BadInput for the first thing that is wrong.
    """
    spec, dataset, tokeniser = _prepare(spec_file, data_file, store, download=True, reporter=reporter)
    _check_objective(spec, dataset)
    base, template = tokeniser().base, tokeniser().template
    identity = {
        "version": _VERSION,
        "spec": _spec_digest(spec),
        "base": base.manifest.digest,
        "dataset": dataset.manifest.digest,
        "chat_template": digest_of(template),
    }
    return Plan(spec, base, dataset, template, f"{spec.title}-{digest_of(identity)[:10]}")


def _prepare(
    spec_file: Path,
    data_file: Path | None,
    store: Store,
    *,
    download: bool,
    strict: bool = False,
    reporter: Reporter | None = None,
) -> tuple[RunSpec, Artifact, Callable[[], Tokeniser]]:
    reporter = reporter or Reporter("trainer")
    spec = load_run_spec(spec_file)
    data, folder = _data(spec, spec_file, data_file)
    if is_fast():
        spec, data = shorten(spec, data, reporter)
    if strict:
        data = data.model_copy(update={"strict": True})
    source = _locate(spec, spec_file)
    # A file that is no template is told before the data is read and the base fetched.
    template = chosen_template(spec, spec_file)

    @cache
    def tokeniser() -> Tokeniser:
        base = import_base(source, store)
        return Tokeniser(base, own_template(base) if template is None else template)

    counting = Counting(
        known=tokeniser() if store.base(source.name).exists() else None,
        fetch=tokeniser if download or not source.is_remote else None,
        longest=spec.training.max_length,
    )
    return spec, prepare(data, folder, store, counting, reporter), tokeniser


def _check_objective(spec: RunSpec, dataset: Artifact) -> None:
    """Raises BadInput when the data is not what the objective learns from."""
    report = json.loads((dataset.path / "report.json").read_text(encoding="utf-8"))
    pairs = any("preference" in source["forms"] for source in report["sources"])
    if pairs == (spec.objective == "dpo"):
        return
    first = next(source["name"] for source in report["sources"] if source["role"] == "train")
    if pairs:
        raise BadInput(
            f"{first}: holds preference pairs, from which objective: sft learns nothing; write objective: dpo"
        )
    raise BadInput(
        f"{first}: holds answers, and objective: dpo learns from preference pairs; give it "
        "records of input, preferred_output and non_preferred_output, or leave objective out"
    )


def _data(spec: RunSpec, spec_file: Path, data_file: Path | None) -> tuple[DataSpec, Path]:
    """What to learn from, and the folder that its paths are relative to."""
    if data_file is None:
        if spec.data is None:
            raise BadConfiguration(f"{spec_file}: names no data; add `data: FILE` to it, or give --data FILE")
        return spec.data, spec_file.parent
    # Its own evaluation files and sources would not fit other data; a part of the data is set aside.
    own: dict[str, Any] = {"train": str(data_file.absolute()), "eval": None, "sources": [], "total": None}
    return (spec.data or DataSpec(train=str(data_file))).model_copy(update=own), Path()


def _locate(spec: RunSpec, spec_file: Path) -> BaseSource:
    """A folder is relative to the spec, as the data is."""
    name = spec.model.name
    if is_folder(name):
        name = str((spec_file.parent / Path(name).expanduser()).absolute())
    try:
        return locate(name, spec.model.revision)
    except BadConfiguration as error:
        raise BadConfiguration(f"{spec_file}: {error}") from error


def _spec_digest(spec: RunSpec) -> str:
    # Without defaults, so that a field added to the spec does not give every old run another id.
    told: Any = {"data": True, "checkpoints": True, "training": {"report_to"}}
    return digest_of(spec.model_dump(mode="json", exclude=told, exclude_defaults=True))
