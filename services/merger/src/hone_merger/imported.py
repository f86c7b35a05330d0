"""`hone-merger import-adapter`: a plain PEFT folder made elsewhere becomes a sealed adapter."""

import re
import shutil
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from hone_contract.artifact import Artifact, draft, open_artifact, seal
from hone_contract.manifest import Source, digest_of
from hone_contract.model_files import CHAT_TEMPLATE, TOKENIZER, sha256_of
from hone_contract.probes import Probe, Probes, write_probes
from hone_contract.store import Store
from hone_merger.adapter_config import CONFIG, WEIGHTS
from hone_merger.fusing.layout import plan_layout
from hone_merger.loading import load_adapter_model
from hone_merger.merge import copy_tokenizer
from hone_merger.scoring import say, score

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


def import_adapter(folder: Path, base: Artifact, name: str | None, store: Store) -> Artifact:
    """Seal the adapter with its base's tokenizer and probes; the same bytes are imported once.

    Raises BadInput when the adapter does not fit the base.
    """
    files = {name: sha256_of(folder, name) for name in (CONFIG, WEIGHTS)}
    plan = {"files": files, "base": base.manifest.digest}
    title = name or re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-") or "adapter"
    target = store.adapter(f"{title}-{digest_of(plan)[:10]}")
    if target.exists():
        return open_artifact(target, "adapter")
    vocabulary = plan_layout(base.path, folder).vocabulary
    with draft(target, plan) as partial:
        for file in (CONFIG, WEIGHTS):
            shutil.copyfile(folder / file, partial / file)
        copy_tokenizer(base.path, partial)
        write_probes(partial, _probes(partial, base, vocabulary))
        lineage = {
            "base": base.source,
            "source": Source(id=f"folder:{folder.resolve().name}", digest=digest_of(files)),
        }
        return seal(partial, "adapter", target.name, lineage=lineage)


def _probes(adapter: Path, base: Artifact, vocabulary: int) -> Probes:
    model = load_adapter_model(base.path, adapter, vocabulary)
    tokenizer = AutoTokenizer.from_pretrained(base.path)
    return Probes(
        tokenizer_sha256=sha256_of(base.path, TOKENIZER),
        chat_template_sha256=sha256_of(base.path, CHAT_TEMPLATE),
        probes=[_probe(model, tokenizer, question) for question in QUESTIONS],
    )


def _probe(model: Any, tokenizer: Any, question: str) -> Probe:
    messages = [{"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
    answer = say(model, prompt, _TOKENS)
    with model.disable_adapter():
        base = score(model, prompt, answer)
    return Probe(
        messages=messages,
        prompt_token_ids=prompt,
        continuation_token_ids=answer,
        base=base,
        adapter=score(model, prompt, answer),
    )
