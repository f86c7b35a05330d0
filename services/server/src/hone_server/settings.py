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
from hone_server import limits
from hone_server.keys import Key, keys_from_environment
from hone_server.limits import Limits, RateLimits

GateMode = Literal["enforce", "warn"]

# What hone-server says to vLLM itself, or must never be said: it would open another way in, let a request
# bring more than text, or blind what watches the engine.
_RESERVED = (
    "--model", "--served-model-name", "--tokenizer", "--chat-template", "--middleware", "--host", "--port",
    "--dtype", "--api-key", "--trust-remote-code", "--trust-request-chat-template", "--config",
    "--trust-request-mm-kwargs", "--enable-prompt-embeds", "--allowed-media-domains",
    "--allowed-local-media-path", "--enable-request-id-headers", "--root-path", "--uds", "--api-server-count",
    "-asc", "--logits-processors", "--worker-extension-cls", "--shutdown-timeout", "--disable-log-stats",
)  # fmt: skip
_RESERVED_FAMILIES = ("--enable-lora", "--lora-", "--max-lora", "--default-mm-loras")


@dataclass(frozen=True)
class Settings:
    """One server, one model."""

    store: Store
    model: str | None
    """Name of the model to serve. None: the only one that is published."""
    base: str | None
    """Name of a base to serve together with every adapter of it. None: one merged model is served."""
    adapters_at_once: int
    """How many adapters one batch may mix."""
    adapters_loaded: int
    """How many are kept in memory, at least `adapters_at_once`."""
    host: str
    port: int
    """0 takes any free port and tells which."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    gate: GateMode
    wait_seconds: float
    """How long to wait for the model to be published; 0 does not wait."""
    drain_seconds: float
    """How long running answers may take before another version is served."""
    hang_seconds: float
    """An engine that makes no token for so long is killed."""
    kv_cache_memory: str
    """Memory for the key-value cache on a CPU, such as `2G`; on a GPU vLLM takes what is free."""
    state: Path
    """Folder of what the server remembers over a restart."""
    keys: tuple[Key, ...]
    """Of clients; empty: everybody is let in."""
    key_file: Path | None
    """Where `keys` come from, read again when it changes. None: they do not come from a file."""
    keyless: bool
    """Other machines may come in without a key, because HONE_ALLOW_KEYLESS=1 says so."""
    open_metrics: bool
    """`/metrics` needs no key."""
    limits: Limits
    rates: RateLimits
    vllm_arguments: tuple[str, ...]
    """Passed to vLLM as they are."""


def parse_settings() -> Settings:
    """From the command line and the environment. Raises BadConfiguration."""
    options = _parser().parse_args()
    keys, key_file = keys_from_environment()
    settings = Settings(
        store=Store(options.store) if options.store else Store.from_environment(),
        model=options.model,
        base=options.base,
        adapters_at_once=options.adapters_at_once,
        adapters_loaded=options.adapters_loaded,
        host=options.host,
        port=options.port,
        dtype=options.dtype,
        gate=options.gate,
        wait_seconds=options.wait,
        drain_seconds=options.drain,
        hang_seconds=options.hang,
        kv_cache_memory=options.kv_cache_memory,
        state=_state(),
        keys=keys,
        key_file=key_file,
        keyless=not keys and not _is_loopback(options.host),
        open_metrics=options.open_metrics,
        limits=limits.read_limits(options),
        rates=limits.read_rates(options),
        vllm_arguments=tuple(options.vllm_arguments),
    )
    _check(settings)
    _check_vllm_arguments(settings.vllm_arguments)
    return settings


def _parser() -> Parser:
    parser = Parser(
        prog="hone-server",
        description="Serve a published model through vLLM's OpenAI-compatible API, once it is proven.",
        epilog="Keys for clients come from HONE_API_KEY (several: separated by commas) or HONE_API_KEY_FILE.",
    )
    _add_options(parser)
    limits.add_options(parser)
    parser.add_argument(
        "vllm_arguments",
        nargs=argparse.REMAINDER,
        metavar="-- VLLM_ARGUMENTS",
        help="passed to vLLM as they are",
    )
    return parser


def _add_options(parser: Parser) -> None:
    option = parser.add_argument
    option("--store", type=Path, help="the store's folder (default: $HONE_STORE or ./store)")
    option("--model", help="the model to serve (default: the only one published)")
    option("--base", help="serve this base and every adapter of it, instead of a merged model")
    at_once = "adapters that one batch may mix, beside --base (default: 4)"
    option("--adapters-at-once", type=int, default=4, metavar="N", help=at_once)
    loaded = "adapters kept in memory, beside --base (default: 16)"
    option("--adapters-loaded", type=int, default=16, metavar="N", help=loaded)
    option("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    option("--port", type=int, default=8000, help="port to listen on; 0 takes a free one (default: 8000)")
    dtypes = ("auto", "float32", "bfloat16", "float16")
    dtype = "number format; auto is float32 on a CPU and the model's own on a GPU"
    option("--dtype", choices=dtypes, default="auto", help=dtype)
    gate = "what a failed proof does (default: enforce)"
    option("--gate", choices=("enforce", "warn"), default="enforce", help=gate)
    _add_seconds(parser, "--wait", float("inf"), "how long to wait for the model (default: for ever)")
    _add_seconds(parser, "--drain", 300.0, "how long running answers may hold up a swap (default: 300)")
    _add_seconds(parser, "--hang", 120.0, "an engine without a token for so long is killed (default: 120)")
    option("--kv-cache-memory", default="2G", help="key-value cache on a CPU (default: 2G)")
    option("--open-metrics", action="store_true", help="let whoever asks read /metrics, without a key")


def _add_seconds(parser: Parser, name: str, default: float, meaning: str) -> None:
    parser.add_argument(name, type=float, default=default, metavar="SECONDS", help=meaning)


def _state() -> Path:
    """$HONE_STATE, else a folder of the user's."""
    if named := os.environ.get("HONE_STATE"):
        return Path(named)
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "hone"


def _check(settings: Settings) -> None:
    if settings.keyless and os.environ.get("HONE_ALLOW_KEYLESS") != "1":
        raise BadConfiguration(
            f"--host {settings.host} can be reached from other machines; set HONE_API_KEY, or listen on "
            "127.0.0.1; HONE_ALLOW_KEYLESS=1 lets everybody in"
        )
    if not 0 <= settings.port <= 65535:
        raise BadConfiguration(f"--port {settings.port} is no port; choose 0 to 65535")
    # Turned round, so that what is no number is refused.
    if not (0 <= settings.drain_seconds < float("inf") and 0 < settings.hang_seconds < float("inf")):
        raise BadConfiguration("--drain and --hang are numbers of seconds; --hang is more than 0")
    if settings.model is not None and settings.base is not None:
        raise BadConfiguration("--model and --base exclude each other: one merged model, or a base")
    if not 1 <= settings.adapters_at_once <= settings.adapters_loaded:
        raise BadConfiguration("--adapters-at-once is at least 1, and at most --adapters-loaded")
    if settings.model is not None:
        settings.store.live(settings.model)


def _check_vllm_arguments(arguments: tuple[str, ...]) -> None:
    if arguments and arguments[0] != "--":
        stray = arguments[0]
        raise BadConfiguration(
            f"{stray!r} was not expected; did you mean --model {stray}? vLLM's come after --"
        )
    for argument in arguments:
        option = argument.partition("=")[0].replace("_", "-")
        # vLLM takes abbreviations too.
        reserved = (*_RESERVED, *_RESERVED_FAMILIES)
        abbreviated = len(option) > 2 and any(each.startswith(option) for each in reserved)
        if abbreviated or option.startswith(_RESERVED_FAMILIES):
            raise BadConfiguration(f"{argument} cannot be passed to vLLM: hone-server decides it")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
