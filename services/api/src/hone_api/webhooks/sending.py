"""One attempt to deliver: a POST that goes nowhere else, and ends in time whatever the receiver does."""

import os
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Thread
from typing import Any

import httpcore
import httpx

from hone_api.settings import Webhooks
from hone_api.webhooks.addresses import Refused, Resolve, check_address
from hone_contract.errors import BadConfiguration

_GONE = 410
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended."""

    told: str
    """In a few words of ours, not of the receiver's."""
    is_delivered: bool = False
    is_gone: bool = False
    """The receiver wants no more, ever."""


@dataclass(frozen=True)
class Post:
    """Sends by these rules."""

    rules: Webhooks
    resolve: Resolve
    tls: ssl.SSLContext

    def __call__(self, url: str, headers: Mapping[str, str], body: str) -> Outcome:
        """Never raises for what a receiver, a network or a name's owner does."""
        deadline = time.monotonic() + self.rules.timeout_seconds
        try:
            return _outcome(self._status(httpx.URL(url), headers, body, deadline))
        except Refused as error:
            return Outcome(str(error))
        except (httpcore.TimeoutException, TimeoutError):
            return Outcome(f"no answer within {self.rules.timeout_seconds:g} s")
        except httpcore.ConnectError as error:
            # Of the name, the network or TLS; nothing in it comes from an answer.
            return Outcome(f"cannot connect: {error}")
        except httpcore.ProtocolError:
            return Outcome("the answer is not HTTP")
        except httpcore.NetworkError:
            return Outcome("the connection broke")

    def _status(self, url: httpx.URL, headers: Mapping[str, str], body: str, deadline: float) -> int:
        if url.scheme != "https" and not self.rules.allow_http:
            raise Refused("http is not allowed any more")
        left = _left(deadline)
        backend = _Checked(self.rules, self.resolve, deadline)
        sent: list[tuple[bytes | str, bytes | str]] = [
            ("host", url.netloc),
            ("content-type", "application/json"),
            ("user-agent", "hone-api"),
            *headers.items(),
        ]
        with (
            httpcore.ConnectionPool(ssl_context=self.tls, network_backend=backend) as pool,
            pool.stream(
                "POST",
                httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers=sent,
                content=body.encode(),
                extensions={"timeout": dict.fromkeys(("connect", "read", "write", "pool"), left)},
            ) as response,
        ):
            # What else it has to say is left where it is.
            return response.status


def trusted() -> ssl.SSLContext:
    """Whose certificates are believed: the public ones, or those of SSL_CERT_FILE or SSL_CERT_DIR.

    Raises BadConfiguration.
    """
    try:
        return httpx.create_ssl_context()
    except OSError as error:
        named = [f"{name}={os.environ[name]}" for name in _CERTIFICATES if os.environ.get(name)]
        raise BadConfiguration(
            f"the certificates of {' and '.join(named) or 'this machine'} cannot be read: {error}; "
            "name a file of PEM certificates, or none"
        ) from None


def _outcome(status: int) -> Outcome:
    if 200 <= status < 300:
        return Outcome(f"HTTP {status}", is_delivered=True)
    if 300 <= status < 400:
        return Outcome(f"HTTP {status}: a redirection, and none is followed")
    return Outcome(f"HTTP {status}", is_gone=status == _GONE)


class _Checked(httpcore.NetworkBackend):
    """Connects to an address that was looked at, and to no other."""

    def __init__(self, rules: Webhooks, resolve: Resolve, deadline: float) -> None:
        self._rules, self._resolve, self._deadline = rules, resolve, deadline
        self._real = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        addresses = self._addresses(host)
        for count, address in enumerate(addresses, 1):
            share = _left(self._deadline, timeout) / (len(addresses) + 1 - count)
            try:
                stream = self._real.connect_tcp(address, port, share, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if count == len(addresses):
                    raise
            else:
                return _Timed(stream, self._deadline)
        raise httpcore.ConnectError("the name has no address")

    def _addresses(self, host: str) -> list[str]:
        """All that the name has now; one that is not allowed is reason enough to go to none of them."""
        found: Future[list[str]] = Future()

        def look_up() -> None:
            try:
                found.set_result(list(self._resolve(host)))
            except (OSError, UnicodeError):
                found.set_exception(httpcore.ConnectError("the name is not known"))

        # A resolver takes no deadline, and may wait for its name servers far longer than we do.
        Thread(target=look_up, daemon=True).start()
        addresses = found.result(_left(self._deadline))
        for address in addresses:
            check_address(address, self._rules)
        return addresses

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class _Timed(httpcore.NetworkStream):
    """One deadline for all of it: who sends a letter every second has no longer than who sends none."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(self._deadline, timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(self._deadline, timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        stream = self._stream.start_tls(ssl_context, server_hostname, _left(self._deadline, timeout))
        return _Timed(stream, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left(deadline: float, most: float | None = None) -> float:
    """Seconds, not more than `most`. Raises TimeoutError when there are none."""
    if (left := deadline - time.monotonic()) <= 0:
        raise TimeoutError
    return left if most is None else min(left, most)


Send = Callable[[str, Mapping[str, str], str], Outcome]
"""What `Post` does: a URL, headers and a body become an outcome."""
