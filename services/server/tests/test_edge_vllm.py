"""The edge's lists against vLLM's own request models, without an engine."""

import json
from typing import Any, get_args

import pytest
from edge_samples import CHAT, COMPLETIONS
from fuzz_bodies import bodies
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.exceptions import VLLMError

from hone_server.edge.fields import _NEVER, Fields
from hone_server.edge.fields import CHAT as CHAT_FIELDS
from hone_server.edge.fields import COMPLETIONS as COMPLETION_FIELDS
from hone_server.edge.prepared import prepare
from hone_server.edge.refusal import Refusal
from hone_server.limits import Limits

REQUESTS: dict[str, Any] = {CHAT: ChatCompletionRequest, COMPLETIONS: CompletionRequest}
FIELDS = {CHAT: CHAT_FIELDS, COMPLETIONS: COMPLETION_FIELDS}
# Of vLLM's, and refused as if they did not exist: for other parts of a cluster, for other kinds of models,
# or something that a client should have no say in.
INSIDE = set(
    "request_id session_id priority cache_salt kv_transfer_params ec_transfer_params mm_payload "
    "return_mm_kwargs return_token_offsets routed_experts_prompt_start watermarking "
    "repetition_detection".split()
)
# What vLLM's handlers answer with 400 (vllm/entrypoints/serve/exception_handling).
ANSWERED = (ValueError, TypeError, OverflowError, NotImplementedError, VLLMError)


def decided(fields: Fields) -> set[str]:
    return {*fields.checked, *fields.dropped, *_NEVER}


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_every_field_of_vllm_is_decided_upon(path: str) -> None:
    known = decided(FIELDS[path])
    assert REQUESTS[path].model_fields.keys() - known == INSIDE & REQUESTS[path].model_fields.keys()


@pytest.mark.parametrize(
    ("path", "named"),
    [
        (CHAT, get_args(chat_create_params.CompletionCreateParams)),
        (COMPLETIONS, get_args(completion_create_params.CompletionCreateParams)),
    ],
)
def test_every_field_of_openai_is_known(path: str, named: Any) -> None:
    fields = {name for kind in named for name in kind.__annotations__}
    assert len(fields) > 10
    assert fields <= decided(FIELDS[path])


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_nothing_is_passed_that_vllm_would_ignore(path: str) -> None:
    ours = {"no_repeat_ngram_size"}
    assert FIELDS[path].checked.keys() - ours <= REQUESTS[path].model_fields.keys()


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_what_is_let_in_is_taken_or_answered_with_400(path: str, data: st.DataObject) -> None:
    try:
        prepared = prepare(path, json.dumps(data.draw(bodies(path))).encode(), Limits())
    except Refusal:
        return
    try:
        REQUESTS[path].model_validate(json.loads(prepared.body)).to_sampling_params(16, {})
    except ANSWERED:
        pass
