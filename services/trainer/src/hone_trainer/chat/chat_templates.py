"""The text that a chat template makes of a conversation, just as the server makes it.

vLLM rebuilds messages and tools from its own request types before it renders them. Templates print them
whole (`tool | tojson`), so here they get the same keys in the same order: the served prompt must have the
tokens of the trained one.
"""

import json
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from hone_trainer.record import Message, Messages

Span = tuple[int, int]
"""Start and end in a text, in characters."""
Tools = list[dict[str, Any]]


def load_tokenizer(folder: Path, template: str) -> PreTrainedTokenizerBase:
    """A base's tokenizer with the chat template of the run, which need not be the base's own."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    return tokenizer


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Messages,
    tools: Tools | None = None,
    *,
    generation_prompt: bool = False,
) -> str:
    """The conversation as text. Raises jinja2.TemplateError when the template refuses it."""
    try:
        text: str = tokenizer.apply_chat_template(
            served_messages(messages),
            tools=served_tools(tools),
            tokenize=False,
            add_generation_prompt=generation_prompt,
        )
    except (TypeError, ValueError) as error:
        # Expressions of a template fail as those of Python do; a conversation may be empty.
        raise TemplateError(str(error)) from error
    return text


def render_marked(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, tools: Tools | None = None
) -> tuple[str, list[Span]]:
    """Likewise, with the parts that stand between `{% generation %}` and `{% endgeneration %}`."""
    try:
        texts, marks = render_jinja_template(
            [served_messages(messages)],
            tools=served_tools(tools),
            chat_template=tokenizer.get_chat_template(),
            return_assistant_tokens_mask=True,
            **tokenizer.special_tokens_map,
        )
    except (TypeError, ValueError) as error:
        raise TemplateError(str(error)) from error
    return texts[0], marks[0]


def client_messages(messages: Messages) -> Messages:
    """What a client would send: no weights."""
    return [{key: value for key, value in each.items() if key != "weight"} for each in messages]


def served_messages(messages: Messages) -> Messages:
    """What vLLM gives to the template when a client sends these messages."""
    return [_served_message(message) for message in messages]


def served_tools(tools: Tools | None) -> Tools | None:
    """Likewise of tools."""
    return None if tools is None else [_served_tool(tool) for tool in tools]


def _served_message(message: Message) -> Message:
    served: Message = {"role": message["role"], "content": message["content"]}
    if message.get("tool_calls"):
        served["tool_calls"] = [_served_call(call) for call in message["tool_calls"]]
    return served | {key: message[key] for key in ("tool_call_id", "name") if key in message}


def _served_call(call: dict[str, Any]) -> dict[str, Any]:
    function = {"arguments": _arguments(call["function"].get("arguments")), "name": call["function"]["name"]}
    served = {key: call[key] for key in ("id",) if key in call}
    served |= {"function": function | _others(call["function"], function), "type": "function"}
    return served | _others(call, served)


def _arguments(arguments: Any) -> dict[str, Any]:
    """As an object; what is none becomes an empty one, as in vLLM."""
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except json.JSONDecodeError:
            return {}
    return arguments if isinstance(arguments, dict) else {}


def _served_tool(tool: dict[str, Any]) -> dict[str, Any]:
    function = tool["function"]
    served = {key: function.get(key) for key in ("name", "description", "parameters")}
    if function.get("strict") is not None:
        served["strict"] = function["strict"]
    return {"type": "function", "function": served}


def _others(values: dict[str, Any], taken: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in taken}
