"""One request to a model: admitted within its key's limits, and counted when it has ended."""

from types import TracebackType
from typing import Self

from hone_api.keys import Caller
from hone_api.metering.rates import Admitted, Rates
from hone_api.metering.tokens import Tally, answers_asked, most_asked, prompt_estimate
from hone_api.metering.usage import Usage
from hone_api.serving.model_field import ModelField


class Meter:
    """Within `with` the request is under way."""

    def __init__(
        self, rates: Rates, usage: Usage, caller: Caller, model: str, field: ModelField, hides: bool
    ) -> None:
        """`hides`: the client did not ask a stream for its usage, which it ends with nevertheless."""
        self._rates, self._usage, self._caller, self._model = rates, usage, caller, model
        self._prompt = prompt_estimate(field.text)
        self._answer, self._answers = most_asked(field), answers_asked(field)
        self.tally = Tally(self._prompt, hides)
        self._admitted: Admitted | None = None
        self._sent = False

    @property
    def headers(self) -> dict[str, str]:
        """What is left to the key, for its answer."""
        return self._admitted.headers if self._admitted else {}

    def sent(self, is_so: bool) -> None:
        """Whether a server has it now."""
        self._sent = is_so

    def __enter__(self) -> Self:
        """Raises ApiError (429)."""
        self._admitted = self._rates.admit(self._caller, self._prompt, self._answer, self._answers)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        assert self._admitted is not None
        has_left = self._sent and error is not None and not isinstance(error, Exception)
        if self.tally.begun or has_left:
            tokens = self.tally.tokens
            self._admitted.settle(tokens.total, tokens.completion if self.tally.begun else None)
            self._usage.add(self._caller.key_id, self._model, tokens)
        else:
            self._admitted.settle(0, None)
