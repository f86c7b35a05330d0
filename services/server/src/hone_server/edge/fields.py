"""The fields of a request that there are: which reach vLLM, which say nothing here, and which cannot be had.

From OpenAI's reference and vLLM 0.32's protocols (vllm/entrypoints/openai/*/protocol.py). vLLM ignores a
field that it does not know; here it is refused, since whoever sends it wants something.
"""

import difflib
from dataclasses import dataclass
from typing import Any

from hone_server.edge import checks, conversation
from hone_server.edge.checks import Check, at_most
from hone_server.edge.refusal import Refusal, unsupported
from hone_server.limits import Limits

# vLLM knows their types and ranges.
_PASSED = (
    "frequency_penalty presence_penalty seed temperature top_p echo top_k min_p repetition_penalty "
    "length_penalty min_tokens ignore_eos skip_special_tokens spaces_between_special_tokens "
    "include_stop_str_in_output truncate_prompt_tokens truncation_side add_special_tokens "
    "return_tokens_as_token_ids return_token_ids stream_interval thinking_token_budget"
).split()
_PASSED_CHAT = (
    "parallel_tool_calls reasoning_effort include_reasoning add_generation_prompt continue_final_message "
    "return_prompt_text"
).split()

_CHECKED: dict[str, Check] = {
    "model": checks.scalar,
    "n": at_most(lambda limits: limits.n),
    "max_tokens": at_most(lambda limits: limits.tokens),
    "prompt_logprobs": at_most(lambda limits: limits.logprobs),
    "no_repeat_ngram_size": at_most(lambda limits: limits.ngram),
    "stop": checks.texts(lambda limits: limits.stop),
    "bad_words": checks.texts(lambda limits: limits.bad_words),
    "stop_token_ids": checks.token_ids,
    "allowed_token_ids": checks.token_ids,
    "logprob_token_ids": checks.token_ids,
    "logit_bias": checks.logit_bias,
    "response_format": checks.structure,
    "structured_outputs": checks.structured_outputs,
    "stream": checks.flag,
    "stream_options": checks.stream_options,
    "vllm_xargs": checks.vllm_xargs,
    **dict.fromkeys(_PASSED, checks.scalar),
}

_TEMPLATE = "the chat template is the model's own"
_TEXT_ONLY = "text only"
_BEAM = "sample with n instead"
_NEVER = {
    "audio": _TEXT_ONLY,
    "modalities": _TEXT_ONLY,
    "mm_processor_kwargs": _TEXT_ONLY,
    "media_io_kwargs": _TEXT_ONLY,
    "prompt_embeds": _TEXT_ONLY,
    "chat_template": _TEMPLATE,
    "documents": _TEMPLATE,
    "function_call": "use tool_choice",
    "functions": "use tools",
    "moderation": "nothing here moderates",
    "prediction": "answers are not predicted",
    "verbosity": "no model here was trained for it",
    "web_search_options": "nothing here searches",
    "store": "nothing is stored",
    "best_of": _BEAM,
    "use_beam_search": _BEAM,
    "guided_json": "use response_format or structured_outputs",
    "guided_regex": "use structured_outputs",
    "guided_choice": "use structured_outputs",
    "guided_grammar": "use structured_outputs",
}
# With these values, the fields above ask for what happens anyway.
_ANYWAY: dict[str, tuple[object, ...]] = {
    "modalities": (["text"],),
    "verbosity": ("medium",),
    "store": (False,),
    "best_of": (1,),
    "use_beam_search": (False,),
}


@dataclass(frozen=True)
class Fields:
    """Of one route."""

    checked: dict[str, Check]
    dropped: frozenset[str]
    """Meant for OpenAI's own service; the answer does not depend on them."""

    def admit(self, body: dict[str, Any], limits: Limits) -> dict[str, Any]:
        """What vLLM gets of it. Raises Refusal."""
        admitted = {}
        for name, value in body.items():
            if check := self.checked.get(name):
                check(name, value, limits)
                admitted[name] = value
            elif name not in self.dropped:
                self._refuse(name, value)
        return admitted

    def _refuse(self, name: str, value: Any) -> None:
        if reason := _NEVER.get(name):
            if value is None or value in _ANYWAY.get(name, ()):
                return
            raise unsupported(name, reason)
        known = [*self.checked, *self.dropped]
        near = difflib.get_close_matches(name, known, n=1) if len(name) <= 64 else []
        hint = f"; did you mean {near[0]}?" if near else ""
        raise Refusal(f"Unknown parameter: {name[:64]}{hint}", "unknown_parameter", param=name[:64])


CHAT = Fields(
    checked={
        **_CHECKED,
        **dict.fromkeys(_PASSED_CHAT, checks.scalar),
        "messages": conversation.messages,
        "logprobs": checks.flag,
        "top_logprobs": at_most(lambda limits: limits.logprobs),
        "max_completion_tokens": at_most(lambda limits: limits.tokens),
        "tools": checks.tools,
        "tool_choice": checks.structure,
        "chat_template_kwargs": checks.template_variables,
    },
    dropped=frozenset(
        "metadata prompt_cache_key prompt_cache_options prompt_cache_retention safety_identifier "
        "service_tier user".split()
    ),
)
COMPLETIONS = Fields(
    checked={
        **_CHECKED,
        "prompt": conversation.prompt,
        "suffix": checks.text,
        "logprobs": at_most(lambda limits: limits.logprobs),
    },
    dropped=frozenset({"user"}),
)
