"""What a request for an answer may hold, and what vLLM gets of it."""

import asyncio
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
from edge_samples import CHAT, COMPLETIONS, Model, ask, call, chat, completion, http_scope, refused
from server_samples import make_settings

from hone_server.current import Serving
from hone_server.edge import Edge
from hone_server.edge.checks import TEMPLATE_PARAMETERS
from hone_server.limits import Limits

pytestmark = pytest.mark.usefixtures("serving")


def passed(path: str, body: Any) -> dict[str, Any]:
    """What vLLM gets of a request that is let in."""
    model = Model()
    response = ask(model, path, body)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = model.last.json
    return found


def stopped(path: str, body: Any, code: str, param: str | None = None) -> str:
    """The message of a request that is refused before vLLM hears of it."""
    model = Model()
    error = refused(ask(model, path, body), 400, code)
    assert not model.asked
    assert param is None or error["param"] == param
    message: str = error["message"]
    return message


# ---- the body as a whole


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe{}",
        b"\xef\xbb\xbf{}",
        '{"prompt": "x"}'.encode("utf-16"),
        b'{"prompt": "x", "prompt": "y"}',
        b'{"prompt": "x", "logit_bias": {"1": 1, "1": 2}}',
        b'{"prompt": "x", "temperature": NaN}',
        b'{"prompt": "x", "temperature": Infinity}',
        b'{"prompt": "x", "temperature": 1e999}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "\xed\xa0\x80"}',
        b'{"prompt": "x", "seed": ' + b"9" * 5000 + b"}",
        b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"prompt": "x"} {}',
        b"prompt=x",
    ],
)
def test_what_is_not_one_strict_json_object_is_refused(body: bytes) -> None:
    stopped(COMPLETIONS, body, "invalid_json")


def test_vllm_reads_what_was_checked_and_not_what_was_sent() -> None:
    model = Model()
    assert ask(model, COMPLETIONS, b' { "pr\\u006fmpt" : "\\u00e9\\ud83d\\ude00" } ').status_code == 200
    assert model.last.body == '{"prompt":"é😀"}'.encode()


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
def test_another_content_type_is_refused(kind: str) -> None:
    refused(
        ask(Model(), COMPLETIONS, completion(), headers={"Content-Type": kind}), 400, "invalid_content_type"
    )


@pytest.mark.parametrize(
    "kind", ["application/json", "application/json; charset=utf-8", "Application/JSON ;x"]
)
def test_json_may_be_called_so_in_any_way(kind: str) -> None:
    assert ask(Model(), COMPLETIONS, completion(), headers={"Content-Type": kind}).status_code == 200


def test_a_body_without_a_content_type_is_json() -> None:
    scope = http_scope("POST", COMPLETIONS, [(b"authorization", b"Bearer second-key")])
    sent = asyncio.run(call(Edge(Model()), scope, json.dumps(completion()).encode()))
    assert sent[0]["status"] == 200


def test_a_huge_body_is_refused_before_it_is_read() -> None:
    model = Model()
    response = ask(model, COMPLETIONS, b"", headers={"Content-Length": str(10**9)})
    refused(response, 413, "too_large")
    assert not model.asked


@pytest.mark.parametrize("length", [None, b"1", b"-1", b"many"])
def test_a_body_that_is_longer_than_it_was_said_to_be_is_cut_off(
    serving: Serving, length: bytes | None
) -> None:
    limit(serving, body=1000)
    headers = [(b"authorization", b"Bearer second-key"), *([(b"content-length", length)] if length else [])]
    sent = asyncio.run(call(Edge(Model()), http_scope("POST", CHAT, headers), *[b" " * 400] * 3))
    assert sent[0]["status"] == 413


def test_a_body_may_come_in_pieces() -> None:
    model = Model()
    scope = http_scope("POST", COMPLETIONS, [(b"authorization", b"Bearer second-key")])
    body = json.dumps(completion(prompt="é" * 100), ensure_ascii=False).encode()
    asyncio.run(call(Edge(model), scope, *(body[i : i + 7] for i in range(0, len(body), 7))))
    assert model.last.json == completion(prompt="é" * 100)


@pytest.mark.parametrize(("path", "needed"), [(CHAT, "messages"), (COMPLETIONS, "prompt")])
def test_nothing_to_answer_is_refused(path: str, needed: str) -> None:
    stopped(path, {"model": "faq"}, "missing_required_parameter", needed)


# ---- fields

BOTH: dict[str, Any] = {
    "frequency_penalty": 0.1,
    "presence_penalty": -0.1,
    "temperature": 0,
    "top_p": 0.9,
    "top_k": 40,
    "min_p": 0.1,
    "repetition_penalty": 1.1,
    "length_penalty": 1.0,
    "seed": 7,
    "n": 2,
    "max_tokens": 16,
    "min_tokens": 1,
    "stop": ["\n", "END"],
    "stop_token_ids": [1, 2],
    "bad_words": ["never"],
    "allowed_token_ids": [1],
    "logit_bias": {"50": -100, "51": 0.5},
    "ignore_eos": True,
    "skip_special_tokens": False,
    "spaces_between_special_tokens": False,
    "include_stop_str_in_output": True,
    "return_token_ids": True,
    "return_tokens_as_token_ids": True,
    "prompt_logprobs": 0,
    "echo": True,
    "truncate_prompt_tokens": 100,
    "stream": False,
    "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
    "structured_outputs": {"regex": "[a-z]+"},
    "stream_interval": 4,
}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def test_every_field_that_makes_sense_reaches_vllm() -> None:
    more = {
        "logprobs": True,
        "top_logprobs": 5,
        "max_completion_tokens": 16,
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "look"}},
        "parallel_tool_calls": False,
        "reasoning_effort": "low",
        "add_generation_prompt": False,
        "continue_final_message": True,
        "chat_template_kwargs": {"enable_thinking": False, "date_string": "1 May", "depth": 1},
    }
    assert passed(CHAT, chat(**BOTH, **more)) == chat(**BOTH, **more)
    assert passed(COMPLETIONS, completion(**BOTH, logprobs=5)) == completion(**BOTH, logprobs=5)


@pytest.mark.parametrize("field", [*BOTH, "model", "messages", "tools", "logprobs", "stream_options"])
def test_null_is_as_good_as_nothing_but_where_something_is_needed(field: str) -> None:
    response = ask(Model(), CHAT, chat(**{field: None}))
    assert response.status_code == (400 if field == "messages" else 200)


def test_what_is_meant_for_openais_own_service_is_left_out() -> None:
    harmless = {
        "user": "u",
        "metadata": {"a": "b"},
        "safety_identifier": "s",
        "prompt_cache_key": "p",
        "prompt_cache_retention": "24h",
        "service_tier": "auto",
        "store": False,
        "modalities": ["text"],
        "verbosity": "medium",
        "audio": None,
        "prediction": None,
    }
    assert passed(CHAT, chat(**harmless)) == chat()
    assert passed(COMPLETIONS, completion(user="u", best_of=1)) == completion()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("audio", {"voice": "alloy"}),
        ("modalities", ["text", "audio"]),
        ("prediction", {"type": "content", "content": "x"}),
        ("web_search_options", {}),
        ("store", True),
        ("verbosity", "low"),
        ("functions", [TOOL["function"]]),
        ("function_call", "auto"),
        ("moderation", {"model": "m"}),
        ("chat_template", "{{ 1 }}"),
        ("documents", [{"text": "x"}]),
        ("mm_processor_kwargs", {"num_crops": 1000}),
        ("media_io_kwargs", {"video": {"num_frames": 10**6}}),
        ("prompt_embeds", "gASV"),
        ("use_beam_search", True),
        ("best_of", 1000),
        ("guided_json", {}),
    ],
)
@pytest.mark.parametrize(("path", "body"), [(CHAT, chat()), (COMPLETIONS, completion())])
def test_what_cannot_be_had_is_refused_by_name(path: str, body: Any, field: str, value: Any) -> None:
    assert stopped(path, body | {field: value}, "unsupported_parameter", field).startswith(field)


@pytest.mark.parametrize(
    "field",
    [
        "request_id",
        "session_id",
        "priority",
        "cache_salt",
        "kv_transfer_params",
        "ec_transfer_params",
        "logits_processors",
        "logits_processor",
        "trace_decode_token_ids",
        "routed_experts_prompt_start",
        "mm_payload",
        "return_mm_kwargs",
        "watermarking",
        "repetition_detection",
        "Temperature",
        "temperature ",
        "",
        "__proto__",
        "\ud800",
        "x" * 100_000,
    ],
)
@pytest.mark.parametrize(("path", "body"), [(CHAT, chat()), (COMPLETIONS, completion())])
def test_a_field_that_nobody_knows_is_refused(path: str, body: Any, field: str) -> None:
    message = stopped(path, body | {field: None}, "unknown_parameter", field[:64])
    assert len(message) < 300


def test_a_misspelt_field_is_recognised() -> None:
    assert "did you mean temperature?" in stopped(CHAT, chat(temprature=1), "unknown_parameter")
    assert "did you mean max_tokens?" in stopped(COMPLETIONS, completion(max_token=1), "unknown_parameter")


# ---- media, templates, and what else would lead out of the text


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}},
        {"type": "input_image", "image_url": "http://x"},
        {"type": "video_url", "video_url": {"url": "file:///etc/passwd"}},
        {"type": "audio_url", "audio_url": {"url": "http://x"}},
        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
        {"type": "image_embeds", "image_embeds": "gASV"},
        {"type": "audio_embeds", "audio_embeds": "gASV"},
        {"type": "video_embeds", "video_embeds": "gASV"},
        {"type": "prompt_embeds", "data": "gASV"},
        {"type": "image_pil", "image_pil": "x"},
        {"type": "file", "file": {"file_id": "f"}},
        {"type": "tool_reference", "name": "look"},
        {"type": "text", "text": "x", "image_url": "http://x"},
        {"type": "text", "text": "x", "uuid": "u"},
        {"type": "TEXT", "text": "x"},
        {"type": ["text"], "text": "x"},
        {"image_url": "http://x"},
        {"image_url": {"url": "http://x"}},
        {"audio_url": "http://x"},
        {"video_url": "http://x"},
        {"text": "x"},
    ],
)
@pytest.mark.parametrize("role", ["user", "system", "tool"])
def test_a_part_that_is_not_text_is_refused(role: str, part: Any) -> None:
    messages = [{"role": role, "content": [{"type": "text", "text": "a"}, part]}]
    assert "text only" in stopped(CHAT, chat(messages=messages), "unsupported_parameter")


@pytest.mark.parametrize("content", [1, True, {}, {"type": "text", "text": "x"}, ["x"], [None], [["x"]]])
def test_content_is_text_or_a_list_of_parts(content: Any) -> None:
    stopped(CHAT, chat(messages=[{"role": "user", "content": content}]), "invalid_type")


def test_a_whole_conversation_passes_as_the_sdk_gives_it_back() -> None:
    call_ = {"id": "call-1", "type": "function", "function": {"name": "look", "arguments": '{"a": 1}'}}
    empty = {"refusal": None, "audio": None, "function_call": None, "annotations": []}
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "developer", "content": [{"type": "text", "text": "x", "prompt_cache_breakpoint": {}}]},
        {"role": "user", "content": "Look.", "name": "ann"},
        {"role": "assistant", "content": None, "tool_calls": [call_], "reasoning_content": "hm", **empty},
        {"role": "tool", "content": "seen", "tool_call_id": "call-1"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}], "reasoning": None},
    ]
    found = passed(CHAT, chat(messages=messages))["messages"]
    assert found[3] == {
        "role": "assistant",
        "content": None,
        "tool_calls": [call_],
        "reasoning_content": "hm",
        "refusal": None,
    }
    assert found[1]["content"] == [{"type": "text", "text": "x"}]
    assert [each["role"] for each in found] == [each["role"] for each in messages]


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("x", "invalid_type"),
        ({}, "invalid_value"),
        ({"role": "root", "content": "x"}, "invalid_value"),
        ({"role": ["user"], "content": "x"}, "invalid_value"),
        ({"role": "user", "content": "x", "image_url": "http://x"}, "unknown_parameter"),
        ({"role": "user", "content": "x", "tools": []}, "unknown_parameter"),
        ({"role": "assistant", "audio": {"id": "a"}}, "unsupported_parameter"),
        ({"role": "assistant", "function_call": {"name": "f", "arguments": ""}}, "unsupported_parameter"),
        ({"role": "user", "content": "x", "name": {"a": 1}}, "invalid_type"),
        ({"role": "assistant", "tool_calls": {}}, "invalid_type"),
        ({"role": "assistant", "tool_calls": [{}]}, "invalid_type"),
        ({"role": "assistant", "tool_calls": [{"type": "custom", "custom": {}}]}, "invalid_type"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}, "invalid_type"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": {}, "arguments": ""}}]}, "invalid_type"),
    ],
)
def test_a_message_of_another_shape_is_refused(message: Any, code: str) -> None:
    stopped(CHAT, chat(messages=[message]), code)


def test_arguments_of_a_call_that_are_nested_without_end_are_refused() -> None:
    def with_arguments(text: str) -> Any:
        function = {"name": "f", "arguments": text}
        return chat(messages=[{"role": "assistant", "tool_calls": [{"function": function}]}])

    for deep in ('{"a":' * 100_000, "[" * 100_000, '{"a":' * 40 + "1" + "}" * 40):
        stopped(CHAT, with_arguments(deep), "limit_exceeded")
    passed(CHAT, with_arguments('{"a": [1, 2, {"b": []}]}'))
    passed(CHAT, with_arguments("not JSON" + "[" * 50))


@pytest.mark.parametrize(
    "variables",
    [
        {"chat_template": "{{ 1 }}"},
        {"chat_template": None},
        {"chat_template_kwargs": {}},
        {"tools": []},
        {"documents": []},
        {"tokenize": True},
        {"tokenizer_kwargs": {}},
        {"messages": 1},
        {"add_generation_prompt": False},
        {"a.b": 1},
        {"a b": 1},
        {"": 1},
        {"x" * 100: 1},
    ],
)
def test_a_template_variable_cannot_replace_what_is_rendered(variables: Any) -> None:
    name = next(iter(variables))
    message = stopped(CHAT, chat(chat_template_kwargs=variables), "unsupported_parameter")
    assert message.startswith(f"chat_template_kwargs.{name[:64]}")


@pytest.mark.parametrize("value", [{"chat_template": "x"}, ["chat_template"], [], {}])
def test_a_template_variable_is_a_plain_value(value: Any) -> None:
    stopped(CHAT, chat(chat_template_kwargs={"thinking": value}), "invalid_type")


def test_many_template_variables_or_long_ones_are_refused() -> None:
    stopped(CHAT, chat(chat_template_kwargs={f"v{i}": 1 for i in range(33)}), "limit_exceeded")
    stopped(CHAT, chat(chat_template_kwargs={"v": "x" * 1025}), "limit_exceeded")
    stopped(CHAT, chat(chat_template_kwargs=[]), "invalid_type")


def test_every_parameter_of_transformers_rendering_is_known() -> None:
    spec = importlib.util.find_spec("transformers")
    assert spec is not None
    assert spec.origin is not None
    source = (Path(spec.origin).parent / "tokenization_utils_base.py").read_text(encoding="utf-8")
    head = source[source.rindex("def apply_chat_template(") :]
    head = head[: head.index(") ->")]
    names = set(re.findall(r"^        (?:\*\*)?(\w+)[:,]", head, re.MULTILINE))
    assert len(names) > 8
    assert names <= TEMPLATE_PARAMETERS


# ---- limits


def limit(serving: Serving, **limits: int) -> None:
    settings = serving.settings
    serving.settings = make_settings(settings.store, keys=settings.keys, limits=Limits(**limits))


MANY: list[tuple[str, dict[str, Any]]] = [
    ("n", {"n": 9}),
    ("n", {"n": 10**30}),
    ("top_logprobs", {"logprobs": True, "top_logprobs": 21}),
    ("prompt_logprobs", {"prompt_logprobs": 21}),
    ("stop", {"stop": ["x"] * 17}),
    ("stop", {"stop": "x" * 257}),
    ("stop", {"stop": ["x", "x" * 257]}),
    ("bad_words", {"bad_words": ["x"] * 129}),
    ("bad_words", {"bad_words": ["x" * 257]}),
    ("stop_token_ids", {"stop_token_ids": [1] * 1025}),
    ("allowed_token_ids", {"allowed_token_ids": [1] * 1025}),
    ("logprob_token_ids", {"logprob_token_ids": [1] * 1025}),
    ("logit_bias", {"logit_bias": {str(i): 1 for i in range(1025)}}),
    ("no_repeat_ngram_size", {"no_repeat_ngram_size": 65}),
    ("vllm_xargs.no_repeat_ngram_size", {"vllm_xargs": {"no_repeat_ngram_size": 65}}),
    ("response_format", {"response_format": {"type": "json_schema", "json_schema": "x" * 70_000}}),
    ("structured_outputs", {"structured_outputs": {"grammar": "x" * 70_000}}),
    ("structured_outputs", {"structured_outputs": {"choice": ["x"] * 30_000}}),
    ("tools", {"tools": [TOOL] * 2000}),
    ("tool_choice", {"tool_choice": {"x": "x" * 70_000}}),
    ("model", {"model": "x" * 1025}),
    ("messages", {"messages": [{"role": "user", "content": "x"}] * 2049}),
    ("messages", {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 2048}]}),
]


@pytest.mark.parametrize(("param", "fields"), MANY, ids=[f"{param}-{i}" for i, (param, _) in enumerate(MANY)])
def test_too_much_of_anything_is_refused(param: str, fields: dict[str, Any]) -> None:
    code = "invalid_value" if fields.get("n") == 10**30 else "limit_exceeded"
    stopped(CHAT, chat(**fields), code, param)


@pytest.mark.parametrize("field", ["response_format", "structured_outputs", "tools", "tool_choice"])
def test_a_schema_may_not_be_nested_without_end(field: str) -> None:
    deep: Any = {}
    for _ in range(40):
        deep = {"properties": deep}
    values = {
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": deep}},
        "structured_outputs": {"json": deep},
        "tools": [{"type": "function", "function": {"name": "f", "parameters": deep}}],
        "tool_choice": deep,
    }
    stopped(CHAT, chat(**{field: values[field]}), "limit_exceeded", field)


@pytest.mark.parametrize("tools", [{}, "x", [1], [{}], [{"function": {}}], [{"function": {"name": 1}}], [[]]])
def test_a_tool_of_another_shape_is_refused(tools: Any) -> None:
    # vLLM would look for the name before it checks that there is one.
    stopped(CHAT, chat(tools=tools, tool_choice={"function": {"name": "f"}}), "invalid_type")


@pytest.mark.parametrize("field", ["n", "max_tokens", "prompt_logprobs", "no_repeat_ngram_size"])
@pytest.mark.parametrize("value", ["8", 8.0, True, [8], {}, "many"])
def test_a_number_with_a_limit_is_a_number(field: str, value: Any) -> None:
    # vLLM would read "1000" as 1000.
    stopped(CHAT, chat(**{field: value}), "invalid_type", field)


@pytest.mark.parametrize(
    "field", ["n", "max_tokens", "top_logprobs", "prompt_logprobs", "no_repeat_ngram_size"]
)
def test_below_zero_is_no_way_to_have_no_limit(field: str) -> None:
    stopped(CHAT, chat(**{field: -1}), "invalid_value", field)


@pytest.mark.parametrize("field", ["stream", "logprobs"])
@pytest.mark.parametrize("value", ["true", 1, 0, "yes", [], {}])
def test_a_flag_is_a_flag(field: str, value: Any) -> None:
    # vLLM would read "yes" as true, and stream.
    stopped(CHAT, chat(**{field: value}), "invalid_type", field)


@pytest.mark.parametrize("field", ["temperature", "seed", "top_p", "echo", "model", "ignore_eos"])
@pytest.mark.parametrize("value", [[], {}, [[1]]])
def test_a_plain_field_holds_a_plain_value(field: str, value: Any) -> None:
    stopped(COMPLETIONS, completion(**{field: value}), "invalid_type", field)


def test_a_number_of_more_than_64_bits_is_refused() -> None:
    stopped(CHAT, chat(seed=2**63), "invalid_value", "seed")
    stopped(CHAT, chat(min_tokens=-(10**40)), "invalid_value", "min_tokens")
    stopped(CHAT, chat(logit_bias={"1": 10**400}), "invalid_value", "logit_bias")
    stopped(CHAT, chat(stop_token_ids=[2**31]), "invalid_value", "stop_token_ids")


@pytest.mark.parametrize("stop", [1, {}, [1], [["x"]], [None]])
def test_stop_is_text(stop: Any) -> None:
    stopped(CHAT, chat(stop=stop), "invalid_type", "stop")


@pytest.mark.parametrize("bias", [[], "x", {"1": "x"}, {"1": True}, {"1": None}, {"1": [1]}])
def test_a_bias_is_a_number(bias: Any) -> None:
    stopped(CHAT, chat(logit_bias=bias), "invalid_type", "logit_bias")


@pytest.mark.parametrize("options", [[], "x", {"x": 1}, {"include_usage": 1}, {"include_usage": "yes"}])
def test_options_of_a_stream_are_flags(options: Any) -> None:
    stopped(CHAT, chat(stream=True, stream_options=options), "invalid_type")


@pytest.mark.parametrize("value", [{"_backend": "x"}, {"json": {}, "backend": "x"}])
def test_structured_outputs_hold_constraints_alone(value: Any) -> None:
    stopped(CHAT, chat(structured_outputs=value), "unsupported_parameter")
    stopped(CHAT, chat(structured_outputs=[value]), "invalid_type")


def test_a_limit_can_be_set(serving: Serving) -> None:
    limit(serving, tokens=100, n=2)
    passed(CHAT, chat(max_tokens=100, n=2))
    for field, value in (("max_tokens", 101), ("max_completion_tokens", 101), ("n", 3)):
        stopped(CHAT, chat(**{field: value}), "limit_exceeded", field)
    stopped(COMPLETIONS, completion(max_tokens=101), "limit_exceeded", "max_tokens")


def test_as_many_tokens_as_fit_the_model_are_the_default() -> None:
    assert passed(CHAT, chat(max_tokens=10**6))["max_tokens"] == 10**6


# ---- prompts


@pytest.mark.parametrize("prompt", ["x", "", ["x", "y"], [1, 2], [[1, 2], [3]]])
def test_a_prompt_is_text_or_tokens_or_several(prompt: Any) -> None:
    assert passed(COMPLETIONS, completion(prompt=prompt))["prompt"] == prompt


@pytest.mark.parametrize(
    "prompt",
    [
        None,
        1,
        True,
        {},
        [],
        [True],
        [1.0],
        ["x", 1],
        [1, "x"],
        ["x", ["y"]],
        [[1], "x"],
        [[["x"]]],
        [[True]],
        [{}],
    ],
)
def test_a_prompt_of_another_shape_is_refused(prompt: Any) -> None:
    stopped(COMPLETIONS, completion(prompt=prompt), "invalid_type", "prompt")


@pytest.mark.parametrize("token", [-1, 2**31, 10**30])
def test_a_number_that_is_no_token_is_refused(token: int) -> None:
    stopped(COMPLETIONS, completion(prompt=[1, token]), "invalid_value", "prompt")


def test_many_prompts_times_n_are_refused() -> None:
    stopped(COMPLETIONS, completion(prompt=["x"] * 33), "limit_exceeded", "prompt")
    stopped(COMPLETIONS, completion(prompt=[[1]] * 33), "limit_exceeded", "prompt")
    stopped(COMPLETIONS, completion(prompt=["x"] * 32, n=3), "limit_exceeded", "n")
    passed(COMPLETIONS, completion(prompt=["x"] * 32, n=2))
    passed(COMPLETIONS, completion(prompt=[1] * 5000, n=8))


# ---- what is moved


@pytest.mark.parametrize(("path", "body"), [(CHAT, chat()), (COMPLETIONS, completion())])
def test_no_repeat_ngram_size_goes_where_vllm_reads_it(path: str, body: Any) -> None:
    wanted = body | {"vllm_xargs": {"no_repeat_ngram_size": 3}}
    assert passed(path, body | {"no_repeat_ngram_size": 3}) == wanted
    assert passed(path, wanted) == wanted
    assert passed(path, body | {"no_repeat_ngram_size": 0}) == body
    assert passed(path, body | {"no_repeat_ngram_size": None, "vllm_xargs": {}}) == body


@pytest.mark.parametrize("xargs", [{"x": 1}, {"no_repeat_ngram_size": 3, "session_id": "s"}])
def test_no_other_argument_reaches_vllms_extensions(xargs: Any) -> None:
    stopped(CHAT, chat(vllm_xargs=xargs), "unsupported_parameter")
    stopped(CHAT, chat(vllm_xargs=[xargs]), "invalid_type")


def test_repetition_penalty_stays_where_vllm_reads_it() -> None:
    assert passed(CHAT, chat(repetition_penalty=1.2))["repetition_penalty"] == 1.2


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}, {"include_obfuscation": True}])
def test_every_stream_tells_its_tokens_at_its_end(options: Any) -> None:
    wanted = {"include_usage": True, "continuous_usage_stats": False}
    assert passed(CHAT, chat(stream=True, stream_options=options))["stream_options"] == wanted
    asked = {"include_usage": False, "continuous_usage_stats": True}
    assert passed(CHAT, chat(stream=True, stream_options=asked))["stream_options"] == wanted


def test_tokens_all_along_a_stream_can_be_asked_for() -> None:
    asked = {"include_usage": True, "continuous_usage_stats": True}
    assert passed(CHAT, chat(stream=True, stream_options=asked))["stream_options"] == asked


def test_an_answer_in_one_piece_has_no_options_of_a_stream() -> None:
    assert "stream_options" not in passed(CHAT, chat())
