"""What is said to vLLM: pure, so that it can be read and tested without it."""

import os
from pathlib import Path

from hone_contract.model_files import CHAT_TEMPLATE
from hone_server.settings import Settings

_SHUTDOWN_SECONDS = 20


def vllm_arguments(settings: Settings, name: str, model: Path, port: int, *, on_cpu: bool) -> list[str]:
    """Arguments of vLLM's API server for one merged model."""
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
        *("--shutdown-timeout", str(_SHUTDOWN_SECONDS)),
        "--disable-fastapi-docs",
        "--disable-uvicorn-access-log",
    ]
    if on_cpu:
        # Compiling takes minutes at every start and is never reused on a CPU.
        arguments += ["--enforce-eager", "--kv-cache-memory-bytes", settings.kv_cache_memory]
    return [*arguments, *(argument for argument in settings.vllm_arguments if argument != "--")]


def set_environment() -> None:
    """Must be called before vLLM is imported."""
    os.environ["VLLM_PLUGINS"] = "hone"
    # Weights come from the store alone.
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
