"""Requests as no client in its right mind sends them: strategies of hypothesis, for the edge or a server."""

import json
from typing import Any

from edge_samples import CHAT, COMPLETIONS
from hypothesis import strategies as st

from hone_server.edge.fields import CHAT as CHAT_FIELDS
from hone_server.edge.fields import COMPLETIONS as COMPLETION_FIELDS

HOSTILE = (
    "chat_template prompt_embeds documents mm_processor_kwargs media_io_kwargs kv_transfer_params vllm_xargs "
    "request_id priority cache_salt use_beam_search best_of logits_processors store audio functions"
).split()
NAMES = sorted({*CHAT_FIELDS.checked, *COMPLETION_FIELDS.checked, *CHAT_FIELDS.dropped, *HOSTILE})
_NUMBERS = [0, 1, -1, 2, 8, 9, 20, 64, 65, 10**6, 2**31, 2**63, -(2**63), 10**40, 0.5, -0.0, 1e308]
_TEXTS = [
    "",
    "x",
    "faq",
    "user",
    "text",
    "auto",
    "none",
    "json_object",
    "\x00",
    "é",
    "😀",
    "{{ 7 * 7 }}",
    "x" * 300,
]

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(_NUMBERS),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(_TEXTS),
    st.text(max_size=8),
)
keys = st.one_of(
    st.sampled_from([*NAMES, "type", "text", "role", "content", "function", "name", "json"]),
    st.text(max_size=5),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=4)),
    max_leaves=12,
)
parts = st.one_of(
    st.builds(lambda text: {"type": "text", "text": text}, st.text(max_size=5)),
    st.sampled_from([{"image_url": "http://169.254.169.254/"}, {"type": "input_audio", "input_audio": {}}]),
    values,
)
messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "system", "assistant", "tool", "root"])},
    optional={
        "content": st.one_of(st.text(max_size=5), st.lists(parts, max_size=3), values),
        "tool_calls": values,
        "name": scalars,
        "audio": values,
    },
)


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and part.keys() == {"type", "text"}


_CONVERSATIONS = st.one_of(st.lists(messages, max_size=3), values)
_PROMPTS = st.one_of(st.text(max_size=8), st.lists(st.integers(0, 100), max_size=4), values)


# Values that the edge lets in, though vLLM may refuse them.
_WORDS = st.lists(st.text(min_size=1, max_size=5), max_size=4)
_IDS = st.lists(st.integers(0, 100_000), max_size=4)
_FITTING: dict[str, st.SearchStrategy[Any]] = {
    "n": st.integers(0, 8),
    "stop": st.one_of(st.text(max_size=5), _WORDS),
    "bad_words": _WORDS,
    "stop_token_ids": _IDS,
    "allowed_token_ids": _IDS,
    "logprob_token_ids": _IDS,
    "logit_bias": st.dictionaries(st.integers(-1, 100_000).map(str), st.integers(-200, 200), max_size=3),
    "logprobs": st.booleans(),
    "top_logprobs": st.integers(0, 20),
    "prompt_logprobs": st.integers(0, 20),
    "no_repeat_ngram_size": st.integers(0, 64),
    "max_tokens": st.integers(0, 8),
    "max_completion_tokens": st.integers(0, 8),
    "stream": st.booleans(),
    "stream_options": st.fixed_dictionaries({}, optional={"include_usage": st.booleans()}),
    "vllm_xargs": st.fixed_dictionaries({}, optional={"no_repeat_ngram_size": st.integers(0, 64)}),
    "response_format": values,
    "tool_choice": values,
    "tools": st.lists(
        st.builds(lambda more: {"function": {**more, "name": "f"}}, st.dictionaries(keys, values))
    ),
    "structured_outputs": st.dictionaries(
        st.sampled_from(["json", "regex", "choice", "grammar", "json_object", "structural_tag"]),
        values,
        max_size=2,
    ),
    "chat_template_kwargs": st.dictionaries(
        st.sampled_from(["enable_thinking", "a", "b"]), scalars, max_size=2
    ),
    "messages": st.lists(
        st.builds(
            lambda role, content: {"role": role, "content": content},
            st.sampled_from(["system", "user", "assistant", "tool", "developer"]),
            st.one_of(st.none(), st.text(max_size=9), st.lists(parts.filter(_is_text), max_size=2)),
        ),
        max_size=4,
    ),
    "prompt": st.one_of(st.text(max_size=9), _IDS, _WORDS, st.lists(_IDS, max_size=3)),
}


def bodies(path: str) -> st.SearchStrategy[dict[str, Any]]:
    """Bodies with what the route needs: a part as the edge lets in, a part with whatever else in it."""
    needed = "messages" if path == CHAT else "prompt"
    wild = _CONVERSATIONS if path == CHAT else _PROMPTS
    checked = (CHAT_FIELDS if path == CHAT else COMPLETION_FIELDS).checked
    fitting = {name: _FITTING.get(name, st.one_of(scalars, values)) for name in checked if name != needed}
    rest = st.fixed_dictionaries({}, optional=fitting)
    few = st.builds(
        lambda body, kept: {name: body[name] for name in list(body)[:kept]}, rest, st.integers(0, 6)
    )
    tame = st.builds(lambda body, value: {**body, needed: value}, few, _FITTING[needed])
    other = st.dictionaries(st.one_of(st.sampled_from(NAMES), keys), values, max_size=3)
    return st.one_of(
        tame,
        st.builds(lambda body, more: {**body, **more}, tame, other),
        st.builds(lambda value, more: {**more, needed: value}, wild, other),
    )


@st.composite
def raw_bodies(draw: st.DrawFn) -> bytes:
    """JSON with a piece cut out, doubled, or changed."""
    text = json.dumps(draw(bodies(draw(st.sampled_from([CHAT, COMPLETIONS]))))).encode()
    start, end = sorted(draw(st.tuples(*[st.integers(0, len(text))] * 2)))
    return (
        text[:start] + draw(st.sampled_from([b"", text[start:end] * 2, b"\xff", b"NaN", b'"'])) + text[end:]
    )


methods = st.one_of(
    st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "CONNECT", "get"]),
    st.text(max_size=6),
)
_SEGMENTS = st.sampled_from(
    "v1 v2 models chat completions health ready metrics faq .. . %2e%2e invocations tokenize ping docs "
    "inference generate collective_rpc sleep pause load_lora_adapter batch render".split()
)
paths = st.one_of(
    st.lists(st.one_of(_SEGMENTS, st.text(max_size=4)), max_size=5).map(lambda parts: "/" + "/".join(parts)),
    st.text(max_size=20),
)
headers = st.lists(
    st.tuples(
        st.sampled_from(
            [
                b"host",
                b"authorization",
                b"content-length",
                b"content-type",
                b"x-request-id",
                b"x-forwarded-for",
            ]
        ),
        st.one_of(st.binary(max_size=10), st.sampled_from([b"Bearer wrong", b"Bearer", b"application/json"])),
    ),
    max_size=4,
)
