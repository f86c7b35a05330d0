"""vLLM in this process: its own API server on our socket, extended through its hooks."""

import asyncio
import socket
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import uvloop
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.api_server.entry import run_server_worker
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
from vllm.platforms import current_platform
from vllm.utils.argparse_utils import FlexibleArgumentParser

from hone_contract.errors import BadConfiguration, RetryableFailure
from hone_server.adapter_list import adapters_of, rank_for
from hone_server.command import vllm_arguments
from hone_server.current import Serving, current, set_current
from hone_server.ngrams import V1_PROCESSOR, V2_PROCESSOR


def serve(serving: Serving, listening: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT, or until `serving.restarting`.

    Raises RetryableFailure when the engine died by itself, or cannot be trusted any more.
    """
    set_current(serving)
    host, port = listening.getsockname()[:2]
    arguments = _arguments(serving, port)
    with asyncio.Runner(loop_factory=_Loop) as runner:
        # vLLM closes the socket, and whoever starts anew goes on with it.
        runner.run(run_server_worker(f"http://{host}:{port}", listening.dup(), arguments))
    if serving.failure is not None:
        raise RetryableFailure(f"{serving.failure}; start the server again")
    # vLLM leaves with 0 when its engine has died, which no orchestrator would restart.
    if not (serving.stopping or serving.restarting):
        raise RetryableFailure("the engine died; its last words are in the log above; start the server again")


def _arguments(serving: Serving, port: int) -> Namespace:
    settings, on_cpu = serving.settings, current_platform.is_cpu()
    rank = 0 if settings.base is None else rank_for(adapters_of(settings.store, serving.model))

    def arguments(processor: str | None) -> Namespace:
        model = serving.model.path
        return _parse(
            vllm_arguments(settings, serving.name, model, port, on_cpu=on_cpu, rank=rank, processor=processor)
        )

    plain = arguments(None)
    if plain.speculative_config is not None:
        # Neither runner takes a processor beside it; the edge refuses what would need one.
        serving.bans_repeats = False
        return plain
    if on_cpu:
        return arguments(V1_PROCESSOR)
    config = AsyncEngineArgs.from_cli_args(plain).create_engine_config()
    return arguments(V2_PROCESSOR if config.use_v2_model_runner else V1_PROCESSOR)


class _Loop(uvloop.Loop):  # type: ignore[misc]
    """Notes that a signal came, before vLLM acts on it: the server was told to stop."""

    def add_signal_handler(self, sig: int, callback: Callable[..., object], *args: Any) -> None:
        def noted() -> None:
            current().note_signal()
            callback(*args)

        super().add_signal_handler(sig, noted)


def _parse(arguments: list[str]) -> Namespace:
    cli_env_setup()
    parser = make_arg_parser(FlexibleArgumentParser(prog="vllm"))
    try:
        parsed: Namespace = parser.parse_args(arguments)
    except SystemExit as error:
        raise BadConfiguration("vLLM does not take these arguments; what it says of them is above") from error
    validate_parsed_serve_args(parsed)
    return parsed
