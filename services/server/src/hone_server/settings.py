"""What `hone-server` was asked to do, validated before vLLM is imported."""

import argparse
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hone_contract.edge import Parser
from hone_contract.errors import BadConfiguration
from hone_contract.store import Store

GateMode = Literal["enforce", "warn"]

# What hone-server says to vLLM itself, or must never be said.
_RESERVED = (
    "--model", "--served-model-name", "--tokenizer", "--chat-template", "--middleware", "--host", "--port",
    "--dtype", "--api-key", "--trust-remote-code", "--trust-request-chat-template", "--config",
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """One server, one model."""

    store: Store
    model: str | None
    """Name of the model to serve. None: the only one that is published."""
    host: str
    port: int
    """0 takes any free port and tells which."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    gate: GateMode
    wait_seconds: float
    """How long to wait for the model to be published; 0 does not wait."""
    kv_cache_memory: str
    """Memory for the key-value cache on a CPU, such as `2G`; on a GPU vLLM takes what is free."""
    keys: tuple[str, ...]
    vllm_arguments: tuple[str, ...]
    """Passed to vLLM as they are."""


def parse_settings() -> Settings:
    """From the command line and the environment. Raises BadConfiguration."""
    options = _parser().parse_args()
    settings = Settings(
        store=Store(options.store) if options.store else Store.from_environment(),
        model=options.model,
        host=options.host,
        port=options.port,
        dtype=options.dtype,
        gate=options.gate,
        wait_seconds=options.wait,
        kv_cache_memory=options.kv_cache_memory,
        keys=_keys(),
        vllm_arguments=tuple(options.vllm_arguments),
    )
    _check(settings)
    return settings


def _parser() -> Parser:
    parser = Parser(
        prog="hone-server",
        description="Serve a published model through vLLM's OpenAI-compatible API, once it is proven.",
        epilog="Keys for clients come from HONE_API_KEY (several: separated by commas) or HONE_API_KEY_FILE.",
    )
    parser.add_argument("--store", type=Path, help="the store's folder (default: $HONE_STORE or ./store)")
    parser.add_argument("--model", help="the model to serve (default: the only one published)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument(
        "--port", type=int, default=8000, help="port to listen on; 0 takes a free one (default: 8000)"
    )
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="number format; auto is float32 on a CPU and the model's own on a GPU",
    )
    parser.add_argument(
        "--gate",
        choices=("enforce", "warn"),
        default="enforce",
        help="what a failed proof does (default: enforce)",
    )
    parser.add_argument(
        "--wait",
        type=float,
        default=float("inf"),
        metavar="SECONDS",
        help="how long to wait for the model (default: for ever)",
    )
    parser.add_argument("--kv-cache-memory", default="2G", help="key-value cache on a CPU (default: 2G)")
    parser.add_argument(
        "vllm_arguments",
        nargs=argparse.REMAINDER,
        metavar="-- VLLM_ARGUMENTS",
        help="passed to vLLM as they are",
    )
    return parser


def _keys() -> tuple[str, ...]:
    text = os.environ.get("HONE_API_KEY", "")
    file = os.environ.get("HONE_API_KEY_FILE")
    if file and not text:
        try:
            text = Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadConfiguration(f"HONE_API_KEY_FILE {file}: cannot be read: {error}") from error
    keys = tuple(key.strip() for key in text.replace("\n", ",").split(",") if key.strip())
    if not keys and (text or file):
        source = f"HONE_API_KEY_FILE {file}" if file else "HONE_API_KEY"
        raise BadConfiguration(f"{source}: holds no key; put one in, or unset it")
    return keys


def _check(settings: Settings) -> None:
    if not settings.keys and not _is_loopback(settings.host):
        raise BadConfiguration(
            f"--host {settings.host} can be reached from other machines; "
            "set HONE_API_KEY, or listen on 127.0.0.1"
        )
    if not 0 <= settings.port <= 65535:
        raise BadConfiguration(f"--port {settings.port} is no port; choose 0 to 65535")
    if settings.model is not None:
        settings.store.live(settings.model)
    if settings.vllm_arguments and settings.vllm_arguments[0] != "--":
        stray = settings.vllm_arguments[0]
        raise BadConfiguration(
            f"{stray!r} was not expected; did you mean --model {stray}? vLLM's come after --"
        )
    for argument in settings.vllm_arguments:
        option = argument.partition("=")[0].replace("_", "-")
        # vLLM takes abbreviations too.
        if len(option) > 2 and any(reserved.startswith(option) for reserved in _RESERVED):
            raise BadConfiguration(f"{argument} cannot be passed to vLLM: hone-server decides it")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
