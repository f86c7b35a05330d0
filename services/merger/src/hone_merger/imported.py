"""`hone-merger import-adapter`: a plain PEFT folder made elsewhere becomes a sealed adapter."""

import re
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from hone_contract.artifact import Artifact, draft, open_artifact, seal
from hone_contract.manifest import Source, digest_of
from hone_contract.model_files import CHAT_TEMPLATE, TOKENIZER, sha256_of
from hone_contract.probes import Probe, Probes, write_probes
from hone_contract.store import Store
from hone_merger.adapter_config import CONFIG, WEIGHTS
from hone_merger.foreign_tokenizer import take_tokenizer, tokenizer_digests
from hone_merger.fusing.layout import plan_layout
from hone_merger.loading import load_adapter_model
from hone_merger.qlora import score_planned
from hone_merger.room import TO_IMPORT, told_when_full
from hone_merger.scoring import say, score
from hone_merger.streaming import score_all, streamed

# Nothing is known of what the adapter learned, so these only have to make the models talk.
QUESTIONS = (
    "Who are you?",
    "What can you help me with?",
    "Explain in one sentence what you know best.",
    "Write a short greeting.",
    "What is the capital of France?",
    "Give me an example of your work.",
    "How do I get started?",
    "Tell me something that most people do not know.",
)
_TOKENS = 24


def import_adapter(
    folder: Path, base: Artifact, name: str | None, store: Store, *, qlora: bool = False
) -> Artifact:
    """Seal the adapter with its tokenizer and probes; the same bytes are imported once.

    The tokenizer and chat template are the folder's where it brings a tokenizer, else the base's. `qlora`:
    the base was in 4 bits (NF4, double quantisation) while it was trained.
    Raises BadInput when the adapter does not fit the base, RetryableFailure when there is no room for it.
    """
    files = {name: sha256_of(folder, name) for name in (CONFIG, WEIGHTS)} | tokenizer_digests(folder)
    plan = {"files": files, "base": base.manifest.digest, **({"qlora": True} if qlora else {})}
    title = name or re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-") or "adapter"
    target = store.adapter(f"{title}-{digest_of(plan)[:10]}")
    if target.exists():
        return open_artifact(target, "adapter")
    vocabulary = plan_layout(base.path, folder).vocabulary
    with told_when_full(target, TO_IMPORT), draft(target, plan) as partial:
        for file in (CONFIG, WEIGHTS):
            shutil.copyfile(folder / file, partial / file)
        take_tokenizer(folder, base.path, partial)
        probes = _probes(partial, base.path, vocabulary)
        write_probes(partial, _with_trained(probes, partial, base.path) if qlora else probes)
        lineage = {
            "base": base.source,
            "source": Source(id=f"folder:{folder.resolve().name}", digest=digest_of(files)),
        }
        return seal(partial, "adapter", target.name, lineage=lineage)


def _probes(adapter: Path, base: Path, vocabulary: int) -> Probes:
    digests = sha256_of(adapter, TOKENIZER), sha256_of(adapter, CHAT_TEMPLATE)
    model = load_adapter_model(base, adapter, vocabulary)
    tokenizer: Any = AutoTokenizer.from_pretrained(adapter)
    messages = [[{"role": "user", "content": question}] for question in QUESTIONS]
    prompts = [_prompt(tokenizer, each) for each in messages]
    texts = [(prompt, say(model, prompt, _TOKENS)) for prompt in prompts]
    tuned = [score(model, *text) for text in texts]
    plain = _score_base(model, base, vocabulary, texts)
    return Probes(
        tokenizer_sha256=digests[0],
        chat_template_sha256=digests[1],
        probes=[
            Probe(
                messages=asked,
                prompt_token_ids=prompt,
                continuation_token_ids=answer,
                base=before,
                adapter=after,
            )
            for asked, (prompt, answer), before, after in zip(messages, texts, plain, tuned, strict=True)
        ],
    )


def _with_trained(probes: Probes, adapter: Path, base: Path) -> Probes:
    """With the logprobs of the adapter on what 4 bits leave of its base."""
    layout = plan_layout(base, adapter, torch.float32, dequantized=True)
    return probes.scored("trained", score_planned(base, layout, probes))


def _prompt(tokenizer: Any, messages: list[dict[str, str]]) -> list[int]:
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _score_base(
    model: Any, base: Path, vocabulary: int, texts: list[tuple[list[int], list[int]]]
) -> list[list[float]]:
    plain = streamed(base)
    if plain.get_input_embeddings().weight.shape[0] == vocabulary:
        return score_all(plain, texts)
    # The base has no rows for tokens that were added; those of the adapter are as near as one gets.
    with model.disable_adapter():
        return [score(model, *text) for text in texts]
