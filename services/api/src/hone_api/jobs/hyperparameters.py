"""What `auto` comes to, once the number of examples is known."""

from typing import Any

from hone_api.settings import Tunable
from hone_api.wire.jobs import CreateJob, DpoHyperparameters, Hyperparameters
from hone_contract.run_spec import DpoSpec

_FEWEST, _MOST, _EPOCHS, _MOST_EPOCHS = 100, 25_000, 3, 25
_BATCH = 8


def asked(request: CreateJob) -> Hyperparameters:
    """They stand below the method, or where they stood before there were methods."""
    before = request.hyperparameters or Hyperparameters()
    if request.method is None:
        return before
    if request.method.type == "dpo":
        within = request.method.dpo
        return within.hyperparameters if within else DpoHyperparameters(**before.model_dump())
    return request.method.supervised.hyperparameters if request.method.supervised else before


def resolve(wanted: dict[str, Any], records: int, tunable: Tunable) -> dict[str, Any]:
    """The same with numbers in place of each `auto`."""
    automatic = {
        "n_epochs": tunable.n_epochs or _epochs(records),
        "batch_size": tunable.batch_size or max(1, min(_BATCH, records // _BATCH)),
        "learning_rate_multiplier": 1.0,
        "beta": DpoSpec().beta,
    }
    return {name: automatic[name] if value == "auto" else value for name, value in wanted.items()}


def _epochs(records: int) -> int:
    """Three, unless an epoch is so short or so long that the examples seen would be too few or too many.

    The rule is that of OpenAI's cookbook (Chat_finetuning_data_prep.ipynb).
    """
    if records * _EPOCHS < _FEWEST:
        return min(_MOST_EPOCHS, -(-_FEWEST // records))
    if records * _EPOCHS > _MOST:
        return max(1, _MOST // records)
    return _EPOCHS
