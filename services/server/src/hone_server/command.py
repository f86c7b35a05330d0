"""What is said to vLLM: pure, so that it can be read and tested without it."""

import json
import os
from pathlib import Path

from hone_contract.model_files import CHAT_TEMPLATE
from hone_server.settings import Settings

SHUTDOWN_SECONDS = 20
"""What running answers get to finish once the server was told to stop."""
WORKER = "hone_server.worker.Reload"


def vllm_arguments(
    settings: Settings,
    name: str,
    model: Path,
    port: int,
    *,
    on_cpu: bool,
    rank: int = 0,
    processor: str | None = None,
) -> list[str]:
    """Arguments of vLLM's API server for one merged model, or for a base and adapters up to that rank.

    `processor` is the logits processor that fits its runner; None: none does.
    """
    dtype = settings.dtype
    if dtype == "auto" and on_cpu:
        # CPUs without native bfloat16 are slower with it, and float32 makes the gate sharp.
        dtype = "float32"
    arguments = [
        *("--model", str(model)),
        *("--served-model-name", name),
        *("--chat-template", str(model / CHAT_TEMPLATE)),
        *("--host", settings.host),
        *("--port", str(port)),
        *("--dtype", dtype),
        *("--middleware", "hone_server.edge.Edge"),
        *("--worker-extension-cls", WORKER),
        *("--shutdown-timeout", str(SHUTDOWN_SECONDS)),
        "--disable-fastapi-docs",
        "--disable-uvicorn-access-log",
    ]
    if on_cpu:
        # Compiling takes minutes at every start and is never reused on a CPU.
        arguments += ["--enforce-eager", "--kv-cache-memory-bytes", settings.kv_cache_memory]
    if settings.base is not None:
        arguments += ["--enable-lora", "--max-loras", str(settings.adapters_at_once)]
        arguments += ["--max-cpu-loras", str(settings.adapters_loaded), "--max-lora-rank", str(rank)]
    if settings.limits.tokens is not None:
        # The edge refuses who asks for more; this is for who asks for nothing.
        most = json.dumps({"max_new_tokens": settings.limits.tokens})
        arguments += ["--override-generation-config", most]
    if processor is not None:
        arguments += ["--logits-processors", processor]
    return [*arguments, *(argument for argument in settings.vllm_arguments if argument != "--")]


def set_environment(settings: Settings) -> None:
    """Must be called before vLLM is imported."""
    os.environ.update(settings.limits.environment())
    os.environ["VLLM_PLUGINS"] = "hone"
    # Weights come from the store alone.
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
