"""Chat templates after the manner of well-known models, in our own words, with the assistant's part marked.

The marks are put in by hand, around what the model must say after the generation prompt: its words, its
calls, and the token that ends its turn, but not the line break after that. They are the reference that
masks are compared with; `unmarked` takes them out, which leaves the template as a model would have it.
"""

import re
from dataclasses import dataclass, replace

from tokenizers import Tokenizer, models, normalizers, processors
from trainer_tiny import chat_tokenizer
from transformers import PreTrainedTokenizerFast

_SPECIAL = [
    *("<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
    *("[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "<bos>", "<start_of_turn>", "<end_of_turn>"),
    *("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
]


@dataclass(frozen=True)
class Sample:
    """A template, and what of a conversation it can write."""

    marked: str
    eos: str
    bos: str | None = None
    system: bool = True
    tools: bool = False

    @property
    def unmarked(self) -> str:
        return re.sub(r"\{% (end)?generation %\}", "", self.marked)

    def without_marks(self) -> "Sample":
        return replace(self, marked=self.unmarked)

    def tokenizer(self, *, trim_offsets: bool = True) -> PreTrainedTokenizerFast:
        """With the marked template. Offsets leave out the space before a word, as Llama 3's do, or not."""
        backend = Tokenizer.from_str(chat_tokenizer().backend_tokenizer.to_str())
        backend.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<|endoftext|>")
        tokenizer.add_tokens(_SPECIAL, special_tokens=True)
        tokenizer.eos_token, tokenizer.bos_token = self.eos, self.bos
        tokenizer.chat_template = self.marked
        return tokenizer


def sentencepiece_tokenizer() -> PreTrainedTokenizerFast:
    """As Llama 2's, a token a letter: ▁ is a space, and stands before whatever follows a special token."""
    special = ["<unk>", "<|im_start|>", "<|im_end|>", *_SPECIAL]
    tokens = [*special, "▁", "\n", *(chr(code) for code in range(0x21, 0x7F))]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    tokenizer.add_tokens(special, special_tokens=True)
    return tokenizer


CHATML = Sample(
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    eos="<|im_end|>",
)

# Trims what is said, and nothing stands between the turns.
LLAMA_3 = Sample(
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content | trim + '<|eot_id|>' }}{% endgeneration %}"
    "{% else %}{{ m.content | trim + '<|eot_id|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    eos="<|eot_id|>",
    bos="<|begin_of_text|>",
)

# The system prompt stands before the first question, or moves on to the last one. Nothing asks for an answer.
_MISTRAL = (
    "{{ bos_token }}{% set ns = namespace(first=none, last=none) %}"
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content + '\n\n' %}"
    "{% set turns = messages[1:] %}{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
    "{% for m in turns %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
    "{% if ns.first is none %}{% set ns.first = loop.index0 %}{% endif %}{% endif %}{% endfor %}"
    "{% for m in turns %}"
    "{% if m.role == 'user' %}{% if tools and loop.index0 == ns.last %}"
    "{{ '[AVAILABLE_TOOLS] ' + tools | tojson + '[/AVAILABLE_TOOLS]' }}{% endif %}"
    "{{ '[INST] ' + (system if loop.index0 == ns.WHICH else '') + m.content + ' [/INST]' }}"
    "{% elif m.role == 'tool' %}{{ '[TOOL_RESULTS] ' + m.content + '[/TOOL_RESULTS]' }}"
    "{% elif m.tool_calls %}{% generation %}{{ '[TOOL_CALLS] [' }}{% for call in m.tool_calls %}"
    "{{ call.function | tojson }}{% if not loop.last %}{{ ', ' }}{% endif %}{% endfor %}"
    "{{ ']' + eos_token }}{% endgeneration %}"
    "{% else %}{% generation %}{{ ' ' + m.content + eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
)
MISTRAL_FIRST = Sample(_MISTRAL.replace("WHICH", "first"), eos="</s>", bos="<s>", tools=True)
MISTRAL_LAST = Sample(_MISTRAL.replace("WHICH", "last"), eos="</s>", bos="<s>", tools=True)

_QWEN_TOOLS = (
    "{% if tools %}{{ '<|im_start|>system\n' }}"
    "{% if messages[0].role == 'system' %}{{ messages[0].content + '\n\n' }}{% endif %}"
    "{{ '# Tools\n<tools>' }}{% for tool in tools %}{{ '\n' + tool | tojson }}{% endfor %}"
    "{{ '\n</tools><|im_end|>\n' }}"
    "{% elif messages[0].role == 'system' %}"
    "{{ '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}"
    "{% endif %}"
)
_QWEN_TOOL_RESULT = (
    "{% elif m.role == 'tool' %}"
    "{% if loop.previtem.role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}"
    "{{ '\n<tool_response>\n' + m.content + '\n</tool_response>' }}"
    "{% if loop.last or loop.nextitem.role != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}"
)
_QWEN_CALL = (
    """{{ '<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}"""
    "{{ call.function.arguments | tojson + '}\n</tool_call>' }}"
)
_QWEN_END = "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
QWEN_2_5 = Sample(
    _QWEN_TOOLS + "{% for m in messages %}"
    "{% if m.role == 'user' %}{{ '<|im_start|>user\n' + m.content + '<|im_end|>\n' }}"
    "{% elif m.role == 'assistant' and not m.tool_calls %}"
    "{{ '<|im_start|>assistant\n' }}"
    "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% elif m.role == 'assistant' %}{{ '<|im_start|>assistant\n' }}{% generation %}"
    "{{ m.content }}{% for call in m.tool_calls %}"
    "{% if m.content or not loop.first %}{{ '\n' }}{% endif %}" + _QWEN_CALL + "{% endfor %}"
    "{{ '<|im_end|>' }}{% endgeneration %}{{ '\n' }}" + _QWEN_TOOL_RESULT + _QWEN_END,
    eos="<|im_end|>",
    tools=True,
)
# After the last question every turn has its thinking, even if it is empty; before that, none has.
QWEN_3 = Sample(
    _QWEN_TOOLS + "{% set ns = namespace(last=0) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}"
    "{% if m.role == 'user' %}{{ '<|im_start|>user\n' + m.content + '<|im_end|>\n' }}"
    "{% elif m.role == 'assistant' %}{% set said = m.content %}{% set thought = '' %}"
    "{% if '</think>' in m.content %}{% set said = m.content.split('</think>')[-1].lstrip('\n') %}"
    "{% set thought = m.content.split('</think>')[0].split('<think>')[-1].strip('\n') %}{% endif %}"
    "{{ '<|im_start|>assistant\n' }}{% generation %}"
    "{% if loop.index0 > ns.last and (loop.last or thought) %}"
    "{{ '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}{{ said }}"
    "{% for call in m.tool_calls or [] %}{% if said or not loop.first %}{{ '\n' }}{% endif %}"
    + _QWEN_CALL
    + "{% endfor %}{{ '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    + _QWEN_TOOL_RESULT
    + _QWEN_END,
    eos="<|im_end|>",
    tools=True,
)

GEMMA = Sample(
    "{{ bos_token }}"
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}"
    "{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content | trim + '<end_of_turn>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ m.content | trim + '<end_of_turn>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
    eos="<end_of_turn>",
    bos="<bos>",
    system=False,
)

# Made up: a space after the colon, which is one token with the word, and a rule between the turns.
PLAIN = Sample(
    "{% for m in messages %}{% if m.role == 'system' %}{{ 'Mind: ' + m.content + '\n----\n' }}"
    "{% elif m.role == 'user' %}{{ 'Human: ' + m.content + '\n----\n' }}"
    "{% else %}{{ 'Robot:' }}{% generation %}{{ ' ' + m.content + eos_token }}{% endgeneration %}"
    "{{ '\n----\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'Robot:' }}{% endif %}",
    eos="<|endoftext|>",
)

SAMPLES = {
    "chatml": CHATML,
    "llama-3": LLAMA_3,
    "mistral-first": MISTRAL_FIRST,
    "mistral-last": MISTRAL_LAST,
    "qwen-2.5": QWEN_2_5,
    "qwen-3": QWEN_3,
    "gemma": GEMMA,
    "plain": PLAIN,
}
