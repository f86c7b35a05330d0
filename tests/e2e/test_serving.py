"""A server as clients meet it: the OpenAI SDK in strict mode, and the chat."""

import signal

import httpx
import openai
import pytest
from chain import Demo, Running, chat
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
