"""Probes: what a server must reproduce before it is ready, and what it must differ from.

The trainer writes them with the adapter (base and adapter model), the merger adds the merged
model, the server's gate compares. Numbers, not text: greedy text flips on near ties.
"""

from itertools import chain
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, FiniteFloat, ValidationError

from hone_contract.artifact import write_atomically
from hone_contract.errors import ArtifactCorrupt
from hone_contract.manifest import Sha256
from hone_contract.shape import Shape

FILE_NAME = "probes.json"

Logprobs = list[FiniteFloat]


class Probe(Shape):
    """One conversation, a recorded continuation, and how likely each model finds it.

    The logprobs are natural logarithms, teacher-forced, one a continuation token, computed in
    float32: log p(token i | prompt and continuation tokens before i).
    """

    messages: list[dict[str, Any]]
    """The conversation up to the assistant's turn, as a client would send it."""
    tools: list[dict[str, Any]] | None = Field(default=None, exclude_if=lambda tools: tools is None)
    """OpenAI's `tools` of the request. None, and then not written: it has none."""
    prompt_token_ids: list[int]
    """The conversation rendered by the chat template, with the generation prompt."""
    continuation_token_ids: list[int]
    """What the adapter model says, decoded greedily."""
    base: Logprobs
    adapter: Logprobs
    trained: Logprobs | None = Field(default=None, exclude_if=lambda logprobs: logprobs is None)
    """The adapter model with its base in 4 bits, as QLoRA trained it. None, and then not written: it was
    trained on the base as it is."""
    merged: Logprobs | None = None
    """None until the merger has added it."""


class Probes(Shape):
    """The probes of one adapter, or of the model that was merged from it."""

    schema_version: Literal[1] = 1
    tokenizer_sha256: Sha256
    """Of `tokenizer.json`."""
    chat_template_sha256: Sha256
    """Of `chat_template.jinja`."""
    probes: list[Probe]

    @property
    def trained_in_4_bits(self) -> bool:
        """Whether the base was in 4 bits while the adapter was trained (QLoRA)."""
        return any(probe.trained is not None for probe in self.probes)

    @property
    def texts(self) -> list[tuple[list[int], list[int]]]:
        """Token ids of each prompt and its continuation."""
        return [(probe.prompt_token_ids, probe.continuation_token_ids) for probe in self.probes]

    def scored(self, model: Literal["trained", "merged"], scores: list[Logprobs]) -> "Probes":
        """With what this model makes of each continuation."""
        pairs = zip(self.probes, scores, strict=True)
        return self.model_copy(
            update={"probes": [probe.model_copy(update={model: each}) for probe, each in pairs]}
        )


def mean_delta(some: list[Logprobs], others: list[Logprobs]) -> float:
    """Mean |difference| over all tokens of all texts, in nats."""
    pairs = zip(chain.from_iterable(some), chain.from_iterable(others), strict=True)
    deltas = [abs(a - b) for a, b in pairs]
    return sum(deltas) / max(1, len(deltas))


def read_probes(folder: Path) -> Probes:
    """Raises ArtifactCorrupt when the folder has no readable probes."""
    path = folder / FILE_NAME
    try:
        return Probes.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise ArtifactCorrupt(f"{path} cannot be read as probes: {error}") from error


def write_probes(folder: Path, probes: Probes) -> None:
    write_atomically(folder / FILE_NAME, probes.model_dump_json(indent=1) + "\n")
