"""Chat, completions and responses by the SDK, before a stand-in for the server (strict validation)."""

import asyncio
import json
import time
from contextlib import suppress
from typing import Any

import httpx
import openai
import pytest
from api_serving_app import ADAPTER, ASK, BASE, STORED, TUNED, ServingApp
from api_upstream import StandIn
from pydantic import ValidationError

from hone_api.serving import model_field
from hone_api.serving.names import can_be_a_name
from hone_api.serving.renaming import EventStream, Renaming
from hone_api.wire.jobs import CreateJob

TEXT = "One two three four"


@pytest.fixture(scope="module")
def client(app: ServingApp) -> openai.OpenAI:
    return app.client()


def test_a_tuned_model_answers_under_its_own_name(client: openai.OpenAI, upstream: StandIn) -> None:
    answer = client.chat.completions.create(model=TUNED, messages=ASK, temperature=0.1)
    assert (answer.model, answer.choices[0].message.content) == (TUNED, TEXT)
    asked = json.loads(upstream.seen[-1].body)
    assert asked == {"model": ADAPTER, "messages": ASK, "temperature": 0.1}


def test_a_server_gets_its_own_key_and_no_header_of_the_client(
    client: openai.OpenAI, upstream: StandIn
) -> None:
    client.chat.completions.create(model=BASE, messages=ASK, extra_headers={"x-secret": "of the client"})
    told = upstream.seen[-1].headers
    assert told["authorization"] == "Bearer of-the-server"
    assert not any("secret" in name or "stainless" in name for name in told)


@pytest.mark.parametrize("split", [0, 1, 7])
@pytest.mark.parametrize("name", [TUNED, BASE])
def test_a_stream_has_the_clients_name_however_it_is_cut(
    client: openai.OpenAI, name: str, split: int
) -> None:
    wish = {"stand_in": {"split": split}}
    with client.chat.completions.create(model=name, messages=ASK, stream=True, extra_body=wish) as stream:
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT
    assert {chunk.model for chunk in chunks} == {name}


def test_events_are_sent_on_when_they_come(client: openai.OpenAI) -> None:
    wish = {"stand_in": {"pace": 0.2}}
    with client.chat.completions.create(model=TUNED, messages=ASK, stream=True, extra_body=wish) as stream:
        begin = time.monotonic()
        times = [time.monotonic() - begin for _ in stream]
    assert times[-1] - times[0] > 0.4


def test_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=TUNED, prompt="Count")
    assert (answer.model, answer.choices[0].text) == (TUNED, TEXT)
    chunks = list(client.completions.create(model=TUNED, prompt="Count", stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == TEXT
    assert {chunk.model for chunk in chunks} == {TUNED}


def test_responses(client: openai.OpenAI) -> None:
    answer = client.responses.create(model=TUNED, input="Count")
    assert (answer.model, answer.output_text) == (TUNED, TEXT)
    events = list(client.responses.create(model=TUNED, input="Count", stream=True))
    first, last = events[0], events[-1]
    assert first.type == "response.created" and first.response.model == TUNED
    assert last.type == "response.completed" and last.response.output_text == TEXT
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == TEXT


def test_the_asynchronous_sdk(app: ServingApp) -> None:
    async def talk() -> None:
        async with app.asynchronous() as client:
            answers = await asyncio.gather(
                *(client.chat.completions.create(model=TUNED, messages=ASK) for _ in range(20))
            )
            assert {answer.model for answer in answers} == {TUNED}
            stream = await client.chat.completions.create(model=TUNED, messages=ASK, stream=True)
            assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == TEXT
            text = await client.completions.create(model=TUNED, prompt="Count")
            assert text.choices[0].text == TEXT
            response = await client.responses.create(model=TUNED, input="Count")
            assert response.output_text == TEXT

    asyncio.run(talk())


def test_numbers_escapes_and_order_go_on_as_they_were_written(app: ServingApp, upstream: StandIn) -> None:
    body = (
        b'{ "seed":18446744073709551617, "t":0.10000000000000000555,\n "model" : "demo\\/tiny", "x":1E400, '
        b'"messages":[{"model":"inner","content":"\\ud83d\\u00e9 \xc3\xa9"}],"a":1,"a":2}'
    )
    answer = httpx.post(f"{app.url}/v1/chat/completions", content=body, headers=_headers(app))
    assert answer.status_code == 200 and answer.json()["model"] == BASE
    assert upstream.seen[-1].body == body.replace(b'"demo\\/tiny"', f'"{STORED}"'.encode())


@pytest.mark.parametrize(
    "body, code",
    [
        (b"", "invalid_json"),
        (b"[]", "invalid_json"),
        (b'{"model": "a"', "invalid_json"),
        (b'{"model": "a"} {}', "invalid_json"),
        (b'{"model": "a",}', "invalid_json"),
        (b'{"model": "a", "model": "b"}', "invalid_json"),
        (b'{"model": "a", "t": NaN}', "invalid_json"),
        (b'{"model": "\xff"}', "invalid_json"),
        (b'{"model": "a", "x": ' + b"[" * 100_000, "invalid_json"),
        (b'{"model": "a", "\\u006dodel": "b"}', "invalid_json"),
        (b'{"model": "a", "x": "\\"}', "invalid_json"),
        (b'{"model": "a"' + b', "x": 1' * 1000 + b"}", "invalid_json"),
        (b"{}", "missing_required_parameter"),
        (b'{"model": 3}', "invalid_type"),
        (b'{"model": null}', "invalid_type"),
    ],
)
def test_what_names_no_model_is_refused(app: ServingApp, body: bytes, code: str) -> None:
    answer = httpx.post(f"{app.url}/v1/chat/completions", content=body, headers=_headers(app))
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == code
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("name", ["", "no-such", "a\u0000b", "\\ud800", "x" * 2000, "é", "../x"])
def test_a_name_that_is_none_is_not_found(app: ServingApp, name: str) -> None:
    written = json.dumps(name).replace("\\\\", "\\")
    answer = httpx.post(
        f"{app.url}/v1/chat/completions", content=f'{{"model": {written}}}', headers=_headers(app)
    )
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"


def test_every_suffix_that_is_taken_makes_a_name_that_can_be_asked() -> None:
    taken = []
    for suffix in (*map(chr, range(0x3100)), "\ue000", "\U0001f600", "\U000e0001", "two words"):
        with suppress(ValidationError):
            taken.append(CreateJob(model="m", training_file="f", suffix=suffix).suffix or "")
    assert all(can_be_a_name(f"ft:m:o:{suffix}:id") for suffix in taken)
    assert {"a", "é", "-", "\U0001f600", "two words"} < set(taken)
    assert not {" ", "\u00a0", "\u2003", "\u200b", "\u202e", "\n"} & set(taken)


def test_a_body_that_is_too_long_is_refused(app: ServingApp) -> None:
    body = json.dumps({"model": BASE, "messages": "x" * (17 * 2**20)})
    answer = httpx.post(f"{app.url}/v1/chat/completions", content=body, headers=_headers(app))
    assert answer.status_code == 413


@pytest.mark.parametrize("piece", [2, 3, 5, 2**14])
def test_the_model_is_found_wherever_a_body_is_cut(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(model_field, "_PIECE", piece)
    hidden = r'"\\\"model\":\\\",\u005d,{"'
    fields = [f'"a":{hidden}', f'"b":[[],{{"model":{hidden}}},"]"]', '"c":-1.5e3', '"model":"é"', '"d":{}']
    for turn in range(len(fields)):
        text = "{" + ",".join(fields[turn:] + fields[:turn]) + "}"
        found = asyncio.run(model_field.find_model(text.encode()))
        assert found.value == json.loads(text)["model"]
        assert json.loads(found.renamed("b")) == json.loads(text) | {"model": "b"}


def test_while_a_large_body_is_looked_at_all_others_have_their_turn() -> None:
    body = b'{"x": [' + b"[]," * 500_000 + b'0], "model": "a"}'

    async def turns() -> int:
        looking, count = asyncio.create_task(model_field.find_model(body)), 0
        while not looking.done():
            await asyncio.sleep(0)
            count += 1
        assert (await looking).value == "a"
        return count

    assert asyncio.run(turns()) > 10


def test_connections_are_used_again(client: openai.OpenAI, upstream: StandIn) -> None:
    _ask(client)
    before = upstream.connections
    for _ in range(10):
        _ask(client)
    assert upstream.connections == before


def test_a_scope_is_needed(app: ServingApp) -> None:
    for scope in ("files", "tune"):
        with pytest.raises(openai.PermissionDeniedError):
            _ask(app.client(app.key("one", scope)))
    with pytest.raises(openai.AuthenticationError):
        _ask(app.client("wrong"))


@pytest.mark.parametrize("path", ["chat/completions/cmpl-1", "responses/resp_1", "embeddings"])
def test_what_no_server_of_ours_keeps_is_not_there(app: ServingApp, path: str) -> None:
    answer = httpx.get(f"{app.url}/v1/{path}", headers=_headers(app))
    assert answer.status_code == 404 and set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n"])
@pytest.mark.parametrize("space", ["", " "])
def test_only_a_models_own_field_is_renamed(end: str, space: str) -> None:
    stream = EventStream(Renaming("a/b", "ft:x"))
    content = r'"content":"\"model\":\"a/b\" a/b"'
    event = 'data: {"id":"a/b","model":' + space + '"%s",' + content + "}" + end
    sent = b"".join(stream.take(bytes([byte])) for byte in (event % "a/b" * 3).encode())
    assert sent == (event % "ft:x" * 3).encode() and stream.rest() == b""


def test_in_a_sentence_a_name_is_renamed_where_it_is_a_word() -> None:
    renaming = Renaming("a", "ft:x")
    assert renaming.sentence("The model `a` has a limit; b/a, a-b, a:b and aa stay. 'a'.") == (
        "The model `ft:x` has ft:x limit; b/a, a-b, a:b and aa stay. 'ft:x'."
    )
    assert renaming.events(b'data: {"error":{"message":"no a"}}\n\n') == (
        b'data: {"error":{"message":"no ft:x"}}\n\n'
    )


def _ask(client: openai.OpenAI, name: str = TUNED, **wish: Any) -> Any:
    return client.chat.completions.create(model=name, messages=ASK, extra_body={"stand_in": wish})


def _headers(app: ServingApp) -> dict[str, str]:
    return {"Authorization": f"Bearer {app.key()}"}
