"""A request for an answer, as vLLM gets it."""

from dataclasses import dataclass
from typing import Any

from hone_server.edge.body import parse_object, write_object
from hone_server.edge.conversation import count_prompts
from hone_server.edge.fields import CHAT, COMPLETIONS
from hone_server.edge.refusal import Refusal, too_much
from hone_server.limits import Limits

_FIELDS = {"/v1/chat/completions": CHAT, "/v1/completions": COMPLETIONS}
_NEEDED = {"/v1/chat/completions": "messages", "/v1/completions": "prompt"}


@dataclass(frozen=True)
class Prepared:
    """Checked, and written anew."""

    body: bytes
    hides_usage: bool
    """The last chunk, which tells the tokens, was not asked for by the client."""
    model: str | None
    """The model that is asked for. None: none is named."""
    bans_repeats: bool
    """It needs the processor of logits for `no_repeat_ngram_size`."""
    scores_prompt: str | None
    """The field that asks for the log probabilities of the prompt. None: none does."""


def prepare(route: str, raw: bytes, limits: Limits) -> Prepared:
    """Raises Refusal."""
    body = _FIELDS[route].admit(parse_object(raw), limits)
    needed = _NEEDED[route]
    if needed not in body:
        raise Refusal(f"Missing required parameter: {needed}", "missing_required_parameter", param=needed)
    _check_sequences(body, limits)
    _move_ngram(body)
    hides_usage = _ask_for_usage(body)
    model = body.get("model")
    return Prepared(
        body=write_object(body),
        hides_usage=hides_usage,
        model=model if isinstance(model, str) else None,
        bans_repeats="vllm_xargs" in body,
        scores_prompt=_scores_prompt(body),
    )


def _check_sequences(body: dict[str, Any], limits: Limits) -> None:
    answers = (body.get("n") or 1) * count_prompts(body.get("prompt"))
    if answers > limits.sequences:
        raise too_much("n", f"{answers} answers in all are more than {limits.sequences}")


def _scores_prompt(body: dict[str, Any]) -> str | None:
    if body.get("prompt_logprobs") is not None:
        return "prompt_logprobs"
    return "echo" if body.get("echo") and body.get("logprobs") is not None else None


def _move_ngram(body: dict[str, Any]) -> None:
    """To where vLLM gives it to Hone's processor of logits."""
    size, given = body.pop("no_repeat_ngram_size", None), body.pop("vllm_xargs", None) or {}
    if size is None:
        size = given.get("no_repeat_ngram_size")
    if size:
        body["vllm_xargs"] = {"no_repeat_ngram_size": size}


def _ask_for_usage(body: dict[str, Any]) -> bool:
    """Whether the client did not ask for it itself."""
    if not body.get("stream"):
        return False
    asked = body.get("stream_options") or {}
    wanted = bool(asked.get("include_usage"))
    continuous = wanted and bool(asked.get("continuous_usage_stats"))
    body["stream_options"] = {"include_usage": True, "continuous_usage_stats": continuous}
    return not wanted
