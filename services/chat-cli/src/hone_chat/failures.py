"""Turns what went wrong between the SDK and a server into an error a person can act on."""

from collections.abc import Mapping

import openai

from hone_chat.errors import BadConfiguration, BadInput, ChatError, RetryableFailure
from hone_chat.settings import Settings
from hone_chat.terminal import one_line

_NEVER_CONNECTED = ("ConnectError", "ConnectTimeout", "ProxyError")


def explain(error: openai.APIError, settings: Settings) -> ChatError:
    """The error to raise in place of the SDK's."""
    if isinstance(error, openai.APIStatusError):
        return _from_status(error, settings)
    if isinstance(error, openai.APIConnectionError):
        return _from_connection(error, settings)
    return _from_stream(error, settings)


def connection_lost(settings: Settings) -> ChatError:
    """The error for an answer that broke off."""
    return RetryableFailure(
        f"The connection to {settings.base_url} was lost before the answer was complete. Ask again."
    )


def not_openai(settings: Settings) -> ChatError:
    """The error for an address where something else lives."""
    hint = "" if settings.base_url.endswith("/v1") else f" Try --base-url {settings.base_url}/v1."
    return BadConfiguration(
        f"{settings.base_url} does not answer as an OpenAI-compatible server does. "
        f"Check --base-url or HONE_URL.{hint}"
    )


def unknown_model(model: str, names: list[str], settings: Settings) -> ChatError:
    """The error for a model that the server does not have."""
    known = one_line(", ".join(names)) or "none"
    return BadConfiguration(
        f"There is no model {one_line(model)!r} at {settings.base_url}; there is: {known}. "
        "Name one of these with --model or /model."
    )


def _from_status(error: openai.APIStatusError, settings: Settings) -> ChatError:
    status, reason, url = error.status_code, _reason(error, settings), settings.base_url
    if status in (401, 403):
        return _from_refused_key(status, settings)
    if status == 404:
        return not_openai(settings)
    if status == 503:
        return RetryableFailure(f"The server at {url} is not ready: {reason}. Try again later.")
    if status in (408, 409, 429) or status >= 500:
        return RetryableFailure(f"The server at {url} failed ({status}): {reason}. Try again.")
    return BadInput(
        f"The server at {url} refused the question ({status}): {reason}. "
        "Change the question or the options; in a conversation, /reset starts afresh."
    )


def _from_refused_key(status: int, settings: Settings) -> ChatError:
    if settings.key is None:
        return BadConfiguration(
            f"The server at {settings.base_url} wants a key ({status}) and none is set. "
            "Put it in HONE_API_KEY, or its file's path in HONE_API_KEY_FILE."
        )
    return BadConfiguration(
        f"The server at {settings.base_url} refused the key from {settings.key.source} ({status}). "
        "Correct the key."
    )


def _from_connection(error: openai.APIConnectionError, settings: Settings) -> ChatError:
    # The SDK keeps only the cause, whose class belongs to the HTTP library it happens to use.
    cause = error.__cause__
    if type(cause).__name__ in _NEVER_CONNECTED:
        return _no_server(str(cause), settings)
    if isinstance(error, openai.APITimeoutError):
        return RetryableFailure(
            f"{settings.base_url} was silent for {settings.timeout:g} s. "
            "Try again, or wait longer with --timeout."
        )
    return connection_lost(settings)


def _no_server(reason: str, settings: Settings) -> ChatError:
    usual = "Connection refused" in reason
    why = "" if usual else f" ({one_line(reason)})"
    return RetryableFailure(
        f"No server answers at {settings.base_url}{why}. Start one with `make demo KEEP=1` or "
        "`hone-server`, or name another with --base-url."
    )


def _from_stream(error: openai.APIError, settings: Settings) -> ChatError:
    reason = _reason(error, settings)
    if (error.code or "").startswith("4"):
        return BadInput(f"The server refused to go on: {reason}. Change the question.")
    return RetryableFailure(
        f"The server at {settings.base_url} failed while it answered: {reason}. Ask again."
    )


def _reason(error: openai.APIError, settings: Settings) -> str:
    body = error.body
    if isinstance(body, Mapping):
        body = body.get("message") or body.get("detail") or body.get("reason")
    text = str(body or error.message)
    if settings.key:
        # Some servers repeat the key they were given.
        text = text.replace(settings.key.value, "[key]")
    return one_line(text).rstrip(".")
