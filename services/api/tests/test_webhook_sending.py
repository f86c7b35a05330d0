"""One attempt to deliver: to where it may go, to where it may not, and until when."""

import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest
from api_receiver import Receiver, receiving, status

from hone_api.serve import serve
from hone_api.settings import Settings, Webhooks
from hone_api.webhooks.addresses import Refused, Resolve, check_address, check_literal, resolve
from hone_api.webhooks.sending import Outcome, Post
from hone_contract.errors import BadConfiguration

TLS = ssl.create_default_context()
HERE = Webhooks(allow_http=True, allow_loopback=True, timeout_seconds=10)
REFUSED = {
    "loopback": ("127.0.0.1", "127.9.9.9", "::1"),
    "mapped": ("::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:0.0.0.0", "64:ff9b::7f00:1"),
    "hidden": ("::7f00:1", "::ffff:0:7f00:1", "2002:7f00:1::", "2001::7f00:1", "64:ff9b:1::7f00:1"),
    "unspecified": ("0.0.0.0", "0.1.2.3", "::"),
    "link-local": ("169.254.1.1", "fe80::1", "fe80::1%lo", "fec0::1"),
    "metadata": (
        "169.254.169.254",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
        "::ffff:100.100.100.200",
    ),
    "multicast": ("224.0.0.1", "239.255.255.255", "ff02::1"),
    "reserved": ("240.0.0.1", "255.255.255.255"),
}
PRIVATE = (
    "10.1.2.3",
    "172.31.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "fd12:3456::1",
    "::ffff:10.0.0.1",
    "64:ff9b::a00:1",
)
PUBLIC = ("93.184.216.34", "172.32.0.1", "2606:2800:220:1::1", "64:ff9b::5db8:d822", "::ffff:93.184.216.34")


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


@pytest.fixture(autouse=True)
def _as_new(receiver: Receiver) -> None:
    receiver.got.clear()
    receiver.answer = status(204)


def post(receiver: Receiver, host: str = "127.0.0.1", to: Resolve = resolve, **rules: Any) -> Outcome:
    chosen = HERE.model_copy(update=rules)
    return Post(chosen, to, TLS)(
        f"http://{host}:{receiver.port}/hooks?a=b", {"webhook-id": "wh_1"}, '{"a": "é"}'
    )


# -- where to ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", [each for addresses in REFUSED.values() for each in addresses])
def test_an_address_that_is_nobodys_receiver_is_refused(address: str) -> None:
    with pytest.raises(Refused, match="is not allowed"):
        check_address(address, Webhooks())


@pytest.mark.parametrize("address", [*PRIVATE, *PUBLIC])
def test_private_networks_may_be_forbidden_and_others_not(address: str) -> None:
    check_address(address, Webhooks())
    closed = Webhooks(allow_private=False)
    if address in PUBLIC:
        check_address(address, closed)
    else:
        with pytest.raises(Refused):
            check_address(address, closed)


def test_loopback_opens_nothing_else() -> None:
    for address in REFUSED["loopback"]:
        check_address(address, HERE)
    for address in (*REFUSED["metadata"], *REFUSED["unspecified"], *REFUSED["hidden"]):
        with pytest.raises(Refused):
            check_address(address, HERE)


@pytest.mark.parametrize(
    "host", ["2130706433", "0x7f000001", "0x7f.1", "127.1", "0177.0.0.1", "017700000001", "::1", "0"]
)
def test_an_address_in_another_form_is_known_before_and_when_it_is_used(
    receiver: Receiver, host: str
) -> None:
    with pytest.raises(Refused):
        check_literal(host, Webhooks())
    assert all(address in ("127.0.0.1", "::1", "0.0.0.0") for address in resolve(host))
    written = f"[{host}]" if ":" in host else host
    # Either it is not taken for a host at all, or the address that it means is.
    try:
        outcome = post(receiver, written, allow_loopback=False)
    except httpx.InvalidURL:
        assert host == "0177.0.0.1"
        return
    assert "is not allowed" in outcome.told and receiver.got == []


@pytest.mark.parametrize("addresses", [["10.0.0.1", "169.254.169.254"], ["127.0.0.1", "0.0.0.0"], ["::1"]])
def test_a_name_with_one_such_address_is_refused(receiver: Receiver, addresses: list[str]) -> None:
    outcome = post(receiver, "a.example", lambda _: addresses, allow_loopback="::1" not in addresses)
    assert "is not allowed" in outcome.told and receiver.got == []


def test_a_name_is_looked_up_once_and_its_address_is_used(receiver: Receiver) -> None:
    """What its owner says the next time, which the look-up of a library would ask for, counts for nothing."""
    answers = [["127.0.0.1"], ["169.254.169.254"]]
    assert post(receiver, "rebind.example", lambda _: answers.pop(0)).is_delivered
    assert len(answers) == 1
    [(path, headers, body)] = receiver.got
    assert (path, body) == ("/hooks?a=b", '{"a": "é"}')
    assert headers["host"] == f"rebind.example:{receiver.port}"
    assert (headers["content-type"], headers["webhook-id"]) == ("application/json", "wh_1")
    # The second time it is refused, although the first one was not.
    assert not post(receiver, "rebind.example", lambda _: answers.pop(0)).is_delivered


def test_an_address_that_does_not_answer_is_not_the_last_one(receiver: Receiver) -> None:
    assert post(receiver, "two.example", lambda _: ["127.0.0.2", "127.0.0.1"]).is_delivered


def test_a_name_that_there_is_not_is_an_outcome(receiver: Receiver) -> None:
    def nothing(_: str) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "no")

    assert post(receiver, "none.example", nothing).told == "cannot connect: the name is not known"
    assert post(receiver, "none.example", lambda _: []).told == "cannot connect: the name has no address"


def test_http_that_was_allowed_once_is_not_used_any_more(receiver: Receiver) -> None:
    assert post(receiver, allow_http=False) == Outcome("http is not allowed any more")
    assert receiver.got == []


def test_no_proxy_of_the_environment_is_asked(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    assert post(receiver).is_delivered


# -- what comes back ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (200, Outcome("HTTP 200", is_delivered=True)),
        (204, Outcome("HTTP 204", is_delivered=True)),
        (400, Outcome("HTTP 400")),
        (410, Outcome("HTTP 410", is_gone=True)),
        (503, Outcome("HTTP 503")),
    ],
)
def test_only_2xx_is_delivered(receiver: Receiver, code: int, outcome: Outcome) -> None:
    receiver.answer = status(code)
    assert post(receiver) == outcome


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirection_is_not_followed(receiver: Receiver, code: int) -> None:
    receiver.answer = status(code, Location=f"http://127.0.0.1:{receiver.port}/elsewhere")
    outcome = post(receiver)
    assert not outcome.is_delivered and "none is followed" in outcome.told
    assert [path for path, _, _ in receiver.got] == ["/hooks?a=b"]


def drip(asked: BaseHTTPRequestHandler) -> None:
    """A letter of a head at a time: no single wait is long."""
    for _ in range(40):
        try:
            asked.wfile.write(b"H")
        except OSError:
            return
        time.sleep(0.05)


def test_who_drips_has_no_longer_than_who_is_silent(receiver: Receiver) -> None:
    receiver.answer = drip
    assert post(receiver, timeout_seconds=0.15).told == "no answer within 0.15 s"


def test_a_look_up_of_a_name_has_no_longer_either(receiver: Receiver) -> None:
    hangs, over = Event(), Event()

    def hang(_: str) -> list[str]:
        hangs.wait(5)
        over.set()
        return ["127.0.0.1"]

    assert post(receiver, "slow.example", hang, timeout_seconds=0.05).told == "no answer within 0.05 s"
    assert not over.is_set() and receiver.got == []
    hangs.set()


def flood(asked: BaseHTTPRequestHandler) -> None:
    asked.send_response(200)
    asked.end_headers()
    try:
        while True:
            asked.wfile.write(b"x" * 65536)
    except OSError:
        return


def test_an_answer_without_end_is_left_where_it_is(receiver: Receiver) -> None:
    receiver.answer = flood
    assert post(receiver).is_delivered


def test_what_is_no_http_is_not_repeated(receiver: Receiver) -> None:
    receiver.answer = lambda asked: asked.wfile.write(b"SSH-2.0-secret\r\n\r\n") and None
    assert post(receiver) == Outcome("the answer is not HTTP")
    receiver.answer = lambda asked: asked.connection.close()
    assert post(receiver).told in ("the answer is not HTTP", "the connection broke")


# -- TLS ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_certificates_that_cannot_be_read_are_a_setting_to_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    with pytest.raises(BadConfiguration, match=f"certificates of SSL_CERT_FILE={file} cannot be read"):
        serve(Settings(data=tmp_path / "data"), "127.0.0.1", 0)
    # Before anything was made.
    assert not (tmp_path / "data").exists()


def test_tls_is_with_the_name_and_not_with_the_address(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    made = ["openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    said = ["-subj", "/CN=a.example", "-addext", "subjectAltName=DNS:a.example"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*made, *said, *files], check=True, capture_output=True)
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(certificate, key)
    ours = ssl.create_default_context(cafile=certificate)
    with receiving(theirs) as receiver:
        send = Post(HERE, lambda _: ["127.0.0.1"], ours)
        assert send(f"https://a.example:{receiver.port}/", {}, "{}").is_delivered
        other = send(f"https://b.example:{receiver.port}/", {}, "{}")
        assert not other.is_delivered and "certificate verify failed" in other.told
        unknown = Post(HERE, lambda _: ["127.0.0.1"], TLS)(f"https://a.example:{receiver.port}/", {}, "{}")
        assert not unknown.is_delivered and "certificate verify failed" in unknown.told
    assert receiver.server_names == ["a.example", "b.example", "a.example"]
    assert len(receiver.got) == 1
