"""What vLLM makes of the probes of merged models, one after the other in this process.

vllm_logprobs.py MODEL_FOLDER…   prints one JSON list a folder: a list of logprobs for each probe
"""

import gc
import json
import os
import sys
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")

from vllm import LLM, SamplingParams

from hone_contract.probes import read_probes


def main() -> None:
    for folder in map(Path, sys.argv[1:]):
        print(json.dumps(_logprobs(folder)), flush=True)
        gc.collect()


def _logprobs(folder: Path) -> list[list[float]]:
    """log p(token) of each continuation token, one prefill a probe."""
    engine = LLM(
        model=str(folder),
        dtype="float32",
        enforce_eager=True,
        max_model_len=256,
        max_num_seqs=4,
        kv_cache_memory_bytes=64 * 2**20,
    )
    probes = read_probes(folder).probes
    prompts = [{"prompt_token_ids": each.prompt_token_ids + each.continuation_token_ids} for each in probes]
    outputs = engine.generate(prompts, SamplingParams(max_tokens=1, prompt_logprobs=0), use_tqdm=False)
    found = []
    for probe, output in zip(probes, outputs, strict=True):
        places = output.prompt_logprobs[len(probe.prompt_token_ids) :]
        found.append(
            [place[token].logprob for place, token in zip(places, probe.continuation_token_ids, strict=True)]
        )
    return found


if __name__ == "__main__":
    main()
