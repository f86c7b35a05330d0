"""The routes that there are. Only the method and the decoded path count, never a header."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Route:
    """One line of the list."""

    name: str
    """As in metrics."""
    open: bool = False
    """Needs no key, and tells its state in words of its own."""
    answers: bool = False
    """Takes a request for an answer of the model."""


METRICS = Route("/metrics")
_MODEL = Route("/v1/models/{id}")
_ROUTES = {
    ("GET", "/health"): Route("/health", open=True),
    ("GET", "/ready"): Route("/ready", open=True),
    ("GET", "/metrics"): METRICS,
    ("GET", "/v1/models"): Route("/v1/models"),
    ("POST", "/v1/chat/completions"): Route("/v1/chat/completions", answers=True),
    ("POST", "/v1/completions"): Route("/v1/completions", answers=True),
}
_SEGMENT = r"[A-Za-z0-9][A-Za-z0-9._:@+-]{0,127}"
# An id may hold slashes, as `Qwen/Qwen2.5-1.5B` does; a client may write them as %2F.
_MODEL_PATH = re.compile(rf"/v1/models/{_SEGMENT}(?:/{_SEGMENT}){{0,3}}")


def find_route(method: str, path: str) -> Route | None:
    """None: there is no such route."""
    if method == "GET" and _MODEL_PATH.fullmatch(path):
        return _MODEL
    return _ROUTES.get((method, path))
