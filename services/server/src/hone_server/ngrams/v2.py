"""The processor for vLLM's runner V2 (vllm/v1/worker/gpu/sample/logits_processor/interface.py, 0.32).

Unverified: it was never run by us on a GPU. Its tests call it on CPU tensors, with vLLM's own dataclasses.

V2 keeps the tokens on the device, and does not wait for a step before it prepares the next. What was
sampled last is not known to the host then, and asking would make every step wait. So this one compares on
the device, the last tokens with every place before them, as transformers does. It is not incremental:
walking down an index takes as many steps as there are entries, a number that only the device knows, which
needs a kernel of its own. The comparison reads four bytes for each token so far; attention reads the keys
and values of each, which are thousands.
"""

import numpy as np
import torch
from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.utils.torch_utils import async_tensor_h2d
from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcessor, LogitsProcRequestState

from hone_server.ngrams.size import size_asked

_CELLS = 1 << 22
"""Places and columns that are compared at once: what is needed beside vLLM's own memory stays near 50 MB."""


class NoRepeatNGram(LogitsProcessor):  # type: ignore[misc]
    """Made by vLLM, one for all slots."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Runs when a request comes in, in the process of the API server."""
        size_asked(sampling_params.extra_args)

    def __init__(self, vllm_config: VllmConfig, req_states: LogitsProcRequestState) -> None:
        if vllm_config.speculative_config is not None:
            # A request has a row for each drafted token then. V1 refuses every processor in that case.
            raise ValueError(
                "no_repeat_ngram_size and speculative decoding do not go together: leave one of them out"
            )
        self._states = req_states
        self._sizes = np.zeros(req_states.max_num_reqs, dtype=np.int64)

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        """A slot has another request, which may have asked for nothing."""
        size = size_asked(sampling_params.extra_args)
        self._sizes[req_idx] = size
        return size > 0

    def apply(self, logits: torch.Tensor, ctx: LogitsContext) -> torch.Tensor:
        """Forbid in place; without speculative decoding a row is a request."""
        asked = self._sizes[ctx.idx_mapping_np]
        for size in np.unique(asked[asked > 0]).tolist():
            rows = np.flatnonzero(asked == size)
            longest = int(ctx.seq_lens_upper_bound_np[rows].max())
            if longest < size:
                continue
            together = max(1, _CELLS // (longest + logits.shape[-1]))
            for start in range(0, len(rows), together):
                self._forbid(logits, ctx, rows[start : start + together], longest, size)
        return logits

    def _forbid(
        self, logits: torch.Tensor, ctx: LogitsContext, chosen: np.ndarray, longest: int, size: int
    ) -> None:
        rows = async_tensor_h2d(chosen, device=logits.device)
        tokens = self._states.all_token_ids.gpu[ctx.expanded_idx_mapping[rows], :longest]
        banned = forbidden(tokens, ctx.pos[rows] + 1, size, logits.shape[-1])
        logits.index_copy_(0, rows, logits[rows].masked_fill(banned, float("-inf")))


def forbidden(tokens: torch.Tensor, lengths: torch.Tensor, size: int, vocabulary: int) -> torch.Tensor:
    """Which columns may not follow; what is in a row of `tokens` beyond its length is left over from others.

    `tokens` is at least `size` wide.
    """
    places = tokens.shape[1] - size + 1
    ends = torch.arange(size, size + places, device=tokens.device)
    matches = ends <= lengths.unsqueeze(1)
    for offset in range(size - 1):
        # Out of range only in rows too short to match anywhere, and in vLLM's dry runs.
        at = (lengths - size + 1 + offset).clamp(0, tokens.shape[1] - 1)
        matches &= tokens[:, offset : offset + places] == tokens.gather(1, at.long().unsqueeze(1))
    last = tokens[:, size - 1 :]
    matches &= (last >= 0) & (last < vocabulary)
    # A spare column takes what does not match.
    columns = torch.where(matches, last, vocabulary).long()
    banned = torch.zeros((tokens.shape[0], vocabulary + 1), dtype=torch.bool, device=tokens.device)
    return banned.scatter_(1, columns, True)[:, :vocabulary]
