"""`FAST_TRAIN=1`: a little of the data and a few steps, to see that a whole run works before it is made."""

import math
import os
from typing import Any

from hone_contract.data_spec import DataSpec, SourceSpec
from hone_contract.errors import BadConfiguration
from hone_contract.events import Reporter
from hone_contract.run_spec import RunSpec, TrainingSpec

RECORDS, STEPS = 64, 20
_ASIDE = 16


def is_fast() -> bool:
    """Whether FAST_TRAIN asks for it. Raises BadConfiguration for a value that is neither 0 nor 1."""
    value = os.environ.get("FAST_TRAIN") or "0"
    if value not in ("0", "1"):
        raise BadConfiguration(
            f"FAST_TRAIN: {value!r} is neither 0 nor 1; 1 trains a little of the data, 0 or nothing all of it"
        )
    return value == "1"


def shorten(spec: RunSpec, data: DataSpec, reporter: Reporter) -> tuple[RunSpec, DataSpec]:
    """The same with little data and few steps; tells what was cut. `data` need not be the spec's own."""
    fewer, cut = _fewer(data), _cut(spec.training)
    training = spec.training.model_copy(update=cut)
    told = [
        *(f"data.{name} {value}" for name, value in fewer.items() if name != "sources"),
        *(f"{source.count} of {source.hub or source.path}" for source in _shortened(data)),
        *(f"training.{name} {value}" for name, value in cut.items()),
    ]
    reporter.tell(
        "fast_train",
        f"FAST_TRAIN=1: a trial with {', '.join(told) or 'nothing cut, since the run is short'}; "
        "unset it to train in full",
        level="warning",
        cut=[*told],
    )
    own = spec.data and spec.data.model_copy(update=_fewer(spec.data))
    return spec.model_copy(update={"training": training, "data": own}), data.model_copy(update=fewer)


def _fewer(data: DataSpec) -> dict[str, Any]:
    """What of `data` becomes less."""
    limits = {"max_records": RECORDS, "min_records": 1}
    if data.total is not None:
        limits["total"] = RECORDS
    if data.eval is not None or data.eval_count is not None:
        limits["eval_count"] = _ASIDE
    changed = {name: most for name, most in limits.items() if _above(getattr(data, name), most)}
    sources = [_little(source) for source in data.sources]
    return {**changed, **({"sources": sources} if sources != data.sources else {})}


def _cut(training: TrainingSpec) -> dict[str, Any]:
    """Nothing where the epochs over so few records have no more steps than that."""
    records = training.batch_size * training.gradient_accumulation_steps
    if math.ceil(training.epochs * RECORDS / records) <= STEPS:
        return {}
    return {"max_steps": STEPS} if _above(training.max_steps, STEPS) else {}


def _little(source: SourceSpec) -> SourceSpec:
    """A stream without a share would be read to its end; of a file all is read, and a part is drawn."""
    if source.count is not None and source.count > RECORDS:
        return source.model_copy(update={"count": RECORDS})
    if source.hub is not None and source.count is None and source.weight is None:
        # It may have fewer than that.
        return source.model_copy(update={"count": RECORDS, "upsample": True})
    return source


def _shortened(data: DataSpec) -> list[SourceSpec]:
    return [little for source in data.sources if (little := _little(source)) != source]


def _above(value: int | None, most: int) -> bool:
    return value is None or value > most
