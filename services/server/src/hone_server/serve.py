"""vLLM in this process: its own API server on our socket, extended through its hooks."""

import asyncio
import socket
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import uvloop
from vllm.entrypoints.launchers.api_server.entry import run_server_worker
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
from vllm.platforms import current_platform
from vllm.utils.argparse_utils import FlexibleArgumentParser

from hone_contract.errors import BadConfiguration, RetryableFailure
from hone_server.command import vllm_arguments
from hone_server.current import Serving, current, set_current


def serve(serving: Serving, listening: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT. Raises RetryableFailure when the engine died by itself."""
    set_current(serving)
    host, port = listening.getsockname()[:2]
    on_cpu = current_platform.is_cpu()
    arguments = _parse(
        vllm_arguments(serving.settings, serving.name, serving.model.path, port, on_cpu=on_cpu)
    )
    with asyncio.Runner(loop_factory=_Loop) as runner:
        runner.run(run_server_worker(f"http://{host}:{port}", listening, arguments))
    # vLLM leaves with 0 when its engine has died, which no orchestrator would restart.
    if not serving.stopping:
        raise RetryableFailure("the engine died; its last words are in the log above; start the server again")


class _Loop(uvloop.Loop):  # type: ignore[misc]
    """Notes that a signal came, before vLLM acts on it: the server was told to stop."""

    def add_signal_handler(self, sig: int, callback: Callable[..., object], *args: Any) -> None:
        def noted() -> None:
            current().stopping = True
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
