"""The processor for vLLM's runner V1 (vllm/v1/sample/logits_processor/interface.py, 0.32).

V1 samples with the tokens on the host, so that each step costs what is new in it. Its list of a request's
output is live, and has three ways that a reader must know (vllm/v1/worker/gpu_model_runner.py):

Asynchronous scheduling (off on a CPU) appends -1 for a token that is still on its way, and puts the token
there right before the processors are applied (`InputBatch.update_async_output_token_ids`).
After a failed load of cached keys and values the end of the list is cut off and said anew.
A request that was preempted is added again, with its output so far in a list that may be another.
"""

from collections.abc import Collection

import torch
from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.utils.torch_utils import async_tensor_h2d
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from hone_server.ngrams.index import NGramIndex
from hone_server.ngrams.size import size_asked

_ON_ITS_WAY = -1


class NoRepeatNGram(LogitsProcessor):  # type: ignore[misc]
    """Made by vLLM, one for the whole batch."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Runs when a request comes in, in the process of the API server."""
        size_asked(sampling_params.extra_args)

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:  # noqa: ARG002
        self._histories: dict[int, History] = {}

    def is_argmax_invariant(self) -> bool:
        """No: the likeliest token may be forbidden."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow requests as they join, leave and change rows."""
        process_dict_updates(self._histories, batch_update, _history)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Forbid in place."""
        rows: list[int] = []
        columns: list[int] = []
        for row, history in self._histories.items():
            # The prompt may hold tokens that the output layer does not have.
            banned = [token for token in history.banned() if token < logits.shape[-1]]
            rows += [row] * len(banned)
            columns += banned
        if rows:
            places = async_tensor_h2d([rows, columns], device=logits.device, dtype=torch.int64)
            logits.index_put_((places[0], places[1]), logits.new_full((), float("-inf")))
        return logits


class History:
    """What one request was asked and has said, read from vLLM's live list."""

    def __init__(self, size: int, prompt: list[int], output: list[int]) -> None:
        self._size = size
        self._prompt = prompt
        self._output = output
        self._newest: int | None = None
        self._begin()

    def banned(self) -> Collection[int]:
        """Take in what is new, and tell what may not follow."""
        if self._was_cut():
            self._begin()
        new = self._output[self._read :]
        known = new[: new.index(_ON_ITS_WAY)] if _ON_ITS_WAY in new else new
        self._index.extend(known)
        if known:
            self._read += len(known)
            self._newest = known[-1]
        if len(known) < len(new) and self._size > 1:
            # What the next token would end is not known: nothing is forbidden rather than something wrong.
            return ()
        return self._index.banned()

    def _begin(self) -> None:
        self._index = NGramIndex(self._size)
        self._index.extend(self._prompt)
        self._read = 0

    def _was_cut(self) -> bool:
        if len(self._output) < self._read:
            return True
        return self._read > 0 and self._output[self._read - 1] != self._newest


def _history(params: SamplingParams, prompt: list[int] | None, output: list[int]) -> History | None:
    size = size_asked(params.extra_args)
    # A prompt of embeddings has no tokens.
    return History(size, prompt or [], output) if size else None
