"""A server as clients meet it: the OpenAI SDK in strict mode, and the chat."""

import json
import signal
from http.client import HTTPConnection
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import openai
import pytest
from chain import Demo, Running, chat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from score import correct

pytestmark = pytest.mark.chain

QUESTION = "Which file in an artifact is written last?"


@pytest.fixture(scope="module")
def client(server: Running) -> openai.OpenAI:
    server.wait_until_ready()
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", _strict_response_validation=True)


def test_until_it_is_proven_it_says_why_it_is_not_ready(server: Running) -> None:
    answer = httpx.get(f"{server.url}/ready")
    assert answer.status_code == 503
    assert answer.json()["reason"]
    refused = httpx.post(f"{server.url}/v1/chat/completions", json={"model": "x", "messages": []})
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "not_ready"


def test_then_it_gives_the_gates_verdict(server: Running, demo: Demo) -> None:
    ready = server.wait_until_ready()
    assert ready["model"] == "hone-faq"
    assert f"{ready['model']}/{ready['version']}" == demo.results["model"]
    assert ready["gate"]["passed"] is True  # type: ignore[index]


def test_the_sdk_lists_and_retrieves_the_model(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["hone-faq"]
    model = client.models.retrieve("hone-faq")
    assert model.owned_by == "hone"
    assert model.created > 0
    with pytest.raises(openai.NotFoundError, match="hone-faq"):
        client.models.retrieve("gpt-4o")


def test_the_sdk_streams_an_answer(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="hone-faq",
        messages=[{"role": "user", "content": QUESTION}],
        max_tokens=40,
        temperature=0,
        stream=True,
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert len(pieces) > 3
    assert correct("".join(pieces), "manifest.json")


def test_what_a_client_may_not_do_is_refused(client: openai.OpenAI, server: Running) -> None:
    assert httpx.post(f"{server.url}/tokenize", json={"prompt": "x"}).status_code == 404
    assert httpx.get(f"{server.url}/version").status_code == 404
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(
            model="hone-faq",
            messages=[{"role": "user", "content": "x"}],
            extra_body={"chat_template": "{{ 1 }}"},
        )


REFUSED = {
    "unknown field": ({"temprature": 1}, "temprature"),
    "template": ({"chat_template_kwargs": {"chat_template": "{{ 1 }}"}}, "chat_template"),
    "too many answers": ({"n": 10_000}, "n"),
    "negative size": ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size"),
    "too many logprobs": ({"logprobs": True, "top_logprobs": 10_000}, "top_logprobs"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_every_refusal_is_an_error_that_the_sdk_knows(client: openai.OpenAI, case: str) -> None:
    extra, field = REFUSED[case]
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(
            model="hone-faq", messages=[{"role": "user", "content": "x"}], extra_body=extra
        )
    assert isinstance(refused.value.body, dict)
    assert refused.value.body.keys() == {"message", "type", "param", "code"}
    assert field in str(refused.value.body["message"])
    assert refused.value.request_id


def test_a_prompt_that_is_too_long_is_refused_by_its_name(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="hone-faq", prompt="word " * 20_000)
    assert refused.value.code == "context_length_exceeded"


def test_the_sdk_completes_a_text_and_streams_its_usage(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="hone-faq", prompt="The manifest is", max_tokens=4, temperature=0)
    assert whole.choices[0].text
    assert whole.usage
    assert whole.usage.completion_tokens == 4
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 8}
    for wanted in (True, False):
        options = {"stream_options": {"include_usage": True}} if wanted else {}
        stream = client.chat.completions.create(model="hone-faq", stream=True, **asked, **options)
        chunks = list(stream)
        assert [bool(chunk.usage) for chunk in chunks].count(True) == int(wanted)
        assert all(chunk.choices for chunk in chunks) is not wanted


def test_no_three_tokens_come_twice_when_they_must_not(client: openai.OpenAI) -> None:
    """Greedy, so that without the rule it would go round in circles."""

    def tokens(**extra: int) -> list[int]:
        answer = client.completions.create(
            model="hone-faq",
            prompt="one two one two one two",
            max_tokens=48,
            temperature=0,
            extra_body={"ignore_eos": True, "return_token_ids": True, **extra},
        )
        told = (answer.choices[0].model_extra or {})["token_ids"]
        return [int(token) for token in told]

    def threes(told: list[int]) -> list[tuple[int, ...]]:
        return list(zip(told, told[1:], told[2:], strict=False))

    free, bound = threes(tokens()), threes(tokens(no_repeat_ngram_size=3))
    assert len(set(free)) < len(free)
    assert len(set(bound)) == len(bound)


def test_metrics_count_what_was_asked_and_refused(client: openai.OpenAI, server: Running) -> None:
    assert client
    told = httpx.get(f"{server.url}/metrics").text
    assert 'hone_tokens_total{key="anonymous",kind="completion"}' in told
    assert "hone_refused_requests_total{" in told
    assert "hone_gate_passed 1.0" in told
    assert "vllm:generation_tokens_total" in told


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    "model messages prompt max_tokens n stop stream logprobs tools logit_bias response_format temperature "
    "seed structured_outputs stop_token_ids no_repeat_ngram_size".split()
)
WORKING = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1},
    "/v1/completions": {"prompt": "x", "max_tokens": 1},
}


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    path=st.sampled_from(sorted(WORKING)),
    changes=st.dictionaries(FIELDS | st.text(max_size=8), ANYTHING, min_size=1, max_size=2),
)
def test_no_body_makes_the_server_fail(
    client: openai.OpenAI, server: Running, path: str, changes: dict[str, object]
) -> None:
    assert client
    body = json.dumps({"model": "hone-faq", **WORKING[path], **changes})
    answer = httpx.post(f"{server.url}{path}", content=body, timeout=60)
    assert answer.status_code in (200, 400, 404), (body, answer.text)
    if answer.status_code != 200:
        assert answer.json()["error"].keys() == {"message", "type", "param", "code"}


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"]),
    path=st.sampled_from(
        "/invocations /tokenize /v1/load_lora_adapter /collective_rpc /pause /docs /ping "
        "/v1/models/../../version //v1/models /v1/responses /v1/embeddings /openapi.json /load".split()
    )
    | st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=20).map(
        lambda text: f"/{text}"
    ),
)
def test_no_route_is_reached_that_is_not_on_the_list(
    client: openai.OpenAI, server: Running, method: str, path: str
) -> None:
    assert client
    connection = HTTPConnection(urlsplit(server.url).netloc, timeout=60)
    # Not httpx, which would tidy the path up.
    connection.putrequest(method, quote(path, safe="/.%:;@!$&'()*+,=~-_"), skip_host=True)
    connection.putheader("Host", "evil.example/v1/models?")
    connection.endheaders()
    status = connection.getresponse().status
    connection.close()
    known = path.partition("?")[0] in ("/health", "/ready", "/metrics", "/v1/models", "/v1/models/hone-faq")
    assert status == 404 or (known and method == "GET")


def test_no_path_of_the_machine_is_told(client: openai.OpenAI, server: Running, demo: Demo) -> None:
    assert client.models.list()
    assert str(demo.store.root) not in httpx.get(f"{server.url}/v1/models").text


def test_one_question_on_the_command_line(client: openai.OpenAI, server: Running) -> None:
    assert client
    answer = chat(server.url, "--temperature", "0", QUESTION)
    assert answer.returncode == 0, answer.stderr
    assert correct(answer.stdout, "manifest.json")


def test_a_question_through_a_pipe(client: openai.OpenAI, server: Running) -> None:
    assert client
    answer = chat(server.url, "--temperature", "0", said=QUESTION)
    assert answer.returncode == 0, answer.stderr
    assert correct(answer.stdout, "manifest.json")


def test_it_leaves_with_zero_when_it_is_told_to(server: Running) -> None:
    """Last in this module: it ends the shared server."""
    server.wait_until_ready()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=60) == 0
