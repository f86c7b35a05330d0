"""Turns what went wrong between the SDK and a server into an error a person can act on."""

from collections.abc import Mapping

import openai

from hone_chat.errors import BadConfiguration, BadInput, ChatError, RetryableFailure
from hone_chat.server import Server
from hone_chat.terminal import one_line

_NEVER_CONNECTED = ("ConnectError", "ConnectTimeout", "ProxyError")


def explain(error: openai.APIError, server: Server) -> ChatError:
    """The error to raise in place of the SDK's."""
    if isinstance(error, openai.APIStatusError):
        return _from_status(error, server)
    if isinstance(error, openai.APIConnectionError):
        return _from_connection(error, server)
    return _from_stream(error, server)


def connection_lost(server: Server) -> ChatError:
    """The error for an answer that broke off."""
    return RetryableFailure(
        f"The connection to {server.base_url} was lost before the answer was complete. Ask again."
    )


def not_openai(server: Server) -> ChatError:
    """The error for an address where something else lives."""
    hint = "" if server.base_url.endswith("/v1") else f" Try {server.option} {server.base_url}/v1."
    return BadConfiguration(
        f"{server.base_url} does not answer as an OpenAI-compatible server does. Check the address.{hint}"
    )


def unknown_model(model: str, names: list[str], server: Server) -> ChatError:
    """The error for a model that the server does not have."""
    known = one_line(", ".join(names)) or "none"
    return BadConfiguration(
        f"There is no model {one_line(model)!r} at {server.base_url}; there is: {known}. "
        "Name one of these with --model or /model; a second one with --compare or /compare."
    )


def reason(error: openai.APIError, server: Server) -> str:
    """What the server said, in one line without a stop at its end."""
    text = _words(error.body) or error.message
    if server.key:
        # Some servers repeat the key they were given.
        text = text.replace(server.key.value, "[key]")
    return one_line(text).rstrip(".")


def _from_status(error: openai.APIStatusError, server: Server) -> ChatError:
    status, why, url = error.status_code, reason(error, server), server.base_url
    if status in (401, 403):
        return _from_refused_key(status, server)
    if status == 404:
        return not_openai(server)
    if status == 503:
        return RetryableFailure(f"The server at {url} is not ready: {why}. Try again later.")
    if status in (408, 409, 429) or status >= 500:
        return RetryableFailure(f"The server at {url} failed ({status}): {why}. Try again.")
    return BadInput(
        f"The server at {url} refused the question ({status}): {why}. "
        "Change the question or the options; in a conversation, /reset starts afresh."
    )


def _from_refused_key(status: int, server: Server) -> ChatError:
    if server.key is None:
        return BadConfiguration(
            f"The server at {server.base_url} wants a key ({status}) and none is set. "
            f"Put it in {server.variable}, or its file's path in {server.variable}_FILE."
        )
    return BadConfiguration(
        f"The server at {server.base_url} refused the key from {server.key.source} ({status}). "
        "Correct the key."
    )


def _from_connection(error: openai.APIConnectionError, server: Server) -> ChatError:
    # The SDK keeps only the cause, whose class belongs to the HTTP library it happens to use.
    cause = error.__cause__
    if cause is not None and type(cause).__name__ in _NEVER_CONNECTED:
        return _no_server(cause, server)
    if isinstance(error, openai.APITimeoutError):
        return RetryableFailure(
            f"{server.base_url} was silent for {server.timeout:g} s. "
            "Try again, or wait longer with --timeout."
        )
    return connection_lost(server)


def _no_server(error: BaseException, server: Server) -> ChatError:
    cause = _first_cause(error)
    usual = isinstance(cause, ConnectionRefusedError)
    why = "" if usual else f" ({one_line(str(cause) or str(error))})"
    return RetryableFailure(
        f"No server answers at {server.base_url}{why}. Start one with `make demo KEEP=1` or "
        f"`hone-server`, or name another with {server.option}."
    )


def _first_cause(error: BaseException) -> BaseException:
    # The HTTP library's own words do not say whether the port is closed or the name is wrong.
    while True:
        below = error.__cause__ or error.__context__
        if isinstance(error, BaseExceptionGroup):
            below = error.exceptions[0]
        if below is None:
            return error
        error = below


def _from_stream(error: openai.APIError, server: Server) -> ChatError:
    why = reason(error, server)
    if (error.code or "").startswith("4"):
        return BadInput(f"The server refused to go on: {why}. Change the question.")
    return RetryableFailure(f"The server at {server.base_url} failed while it answered: {why}. Ask again.")


def _words(body: object) -> str:
    if isinstance(body, Mapping):
        return _words(body.get("message") or body.get("detail") or body.get("reason"))
    if isinstance(body, list):
        return "; ".join(map(_fault, body))
    return str(body or "")


def _fault(fault: object) -> str:
    # FastAPI's form: where, and what is wrong there. What was sent stands beside it and is left out.
    if not (isinstance(fault, Mapping) and isinstance(fault.get("loc"), list)):
        return str(fault)
    return f"{'.'.join(map(str, fault['loc']))}: {fault.get('msg', '')}"
