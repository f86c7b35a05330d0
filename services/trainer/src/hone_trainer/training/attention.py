"""Attention for records that stand one after another in a row without padding, none seeing another.

Transformers calls it by its name, as any attention implementation
(https://huggingface.co/docs/transformers/attention_interface). What a pass needs to know comes as
`record_lengths`, which models hand through to their attention.
"""

from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "hone_records"
# What some architectures ask of their attention besides, and neither this nor SDPA does.
_NOT_DONE = ("softcap", "s_aux", "position_bias")


class NotDone(Exception):
    """The architecture needs more of its attention than is here."""


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    record_lengths: list[int] | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each record; query, key and value are (1, heads, tokens, head size).

    Without `record_lengths` it is SDPA, as Transformers has it. Time and memory grow with the sum of the
    squared lengths, not with the square of the sum.
    """
    if attention_mask is not None and attention_mask.dim() == 0:
        # Some architectures tell of their window in the mask only.
        sliding_window, attention_mask = int(attention_mask), None
    if odd := [name for name in _NOT_DONE if options.get(name) is not None]:
        raise NotDone(f"this attention knows no {odd[0]}")
    if record_lengths is None:
        if attention_mask is None and query.shape[2] == key.shape[2]:
            attention_mask = _window(query, sliding_window)
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
        return output, None
    parts = [
        F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=(window := _window(q, sliding_window)),
            is_causal=window is None,
            scale=scaling,
            dropout_p=dropout,
            enable_gqa=query.shape[1] != key.shape[1],
        ).transpose(1, 2)
        for q, k, v in zip(
            *(torch.split(each, record_lengths, 2) for each in (query, key, value)), strict=True
        )
    ]
    return torch.cat(parts, 1), None


def _window(query: torch.Tensor, width: int | None) -> torch.Tensor | None:
    """The mask of a record longer than the window; as Transformers' `sliding_window_overlay` has it."""
    length = query.shape[2]
    if width is None or length <= width:
        return None
    positions = torch.arange(length, device=query.device)
    distance = positions[:, None] - positions[None, :]
    return (distance >= 0) & (distance < width)


def _mask(
    *arguments: Any,
    attention_mask: torch.Tensor | None = None,
    local_size: int | None = None,
    **options: Any,
) -> torch.Tensor | None:
    """Where nothing is padded, only the window's width: a mask over a pass would be tokens × tokens."""
    if attention_mask is None:
        return None if local_size is None else torch.tensor(local_size)
    options["local_size"] = local_size
    mask: torch.Tensor | None = sdpa_mask(*arguments, attention_mask=attention_mask, **options)
    return mask


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, _mask)


def keeps_records_apart(model: Any) -> bool:
    """Whether a record in a row is as if it were alone; tried, since some layers carry on what they saw.

    Two rows that differ in their first record only must agree on the second, bit for bit: convolutions,
    recurrent layers and attention that ignores `record_lengths` do not.
    """
    first, second = 5, 7
    rows = (
        torch.arange(2, 2 * (first + second) + 2).reshape(2, -1) % model.config.get_text_config().vocab_size
    )
    rows[1, first:] = rows[0, first:]
    if getattr(model.config.get_text_config(), "attention_chunk_size", None):
        return False
    try:
        one, other = (_states(model, row, [first, second]) for row in rows)
    except (NotDone, TypeError, AttributeError, RuntimeError):
        # An architecture without position ids, of another build, or beyond what a kernel can do.
        return False
    changed = (one - other).abs().amax(-1)
    allowed = one.abs().max() * _rounding(model, one.dtype)
    return bool((changed[first:] <= allowed).all()) and not bool((changed[:first] <= allowed).all())


def _rounding(model: Any, dtype: torch.dtype) -> float:
    """A mixture of experts sums each expert's tokens in groups, which depend on the others in the row."""
    mixture = getattr(model.config.get_text_config(), "output_router_logits", None) is not None
    eps = torch.finfo(dtype).eps
    return min(64 * eps, eps**0.5) if mixture else 0.0


@torch.inference_mode()
def _states(model: Any, row: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """The last layer's states of records in one row, tokens × size."""
    places = torch.cat([torch.arange(length) for length in lengths])
    output = model.base_model(
        input_ids=row[None].to(model.device),
        position_ids=places[None].to(model.device),
        record_lengths=lengths,
        use_cache=False,
    )
    states: torch.Tensor = output.last_hidden_state[0]
    return states
