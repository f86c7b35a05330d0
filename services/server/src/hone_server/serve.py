"""vLLM in this process: its own API server on our socket, extended through its hooks."""

import socket
from argparse import Namespace

import uvloop
from vllm.entrypoints.launchers.api_server.entry import run_server_worker
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
from vllm.platforms import current_platform
from vllm.utils.argparse_utils import FlexibleArgumentParser

from hone_contract.errors import RetryableFailure
from hone_server.command import vllm_arguments
from hone_server.current import Serving, set_current


def serve(serving: Serving, listening: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT. Raises RetryableFailure when the engine died by itself."""
    set_current(serving)
    host, port = listening.getsockname()[:2]
    arguments = _parse(
        vllm_arguments(
            serving.settings, serving.name, serving.model.path, port, on_cpu=current_platform.is_cpu()
        )
    )
    uvloop.run(run_server_worker(f"http://{host}:{port}", listening, arguments))
    # vLLM leaves with 0 when its engine has died, which no orchestrator would restart.
    if serving.engine.errored:
        raise RetryableFailure("the engine died; its last words are in the log above; start the server again")


def _parse(arguments: list[str]) -> Namespace:
    cli_env_setup()
    parser = make_arg_parser(FlexibleArgumentParser(prog="vllm"))
    parsed: Namespace = parser.parse_args(arguments)
    validate_parsed_serve_args(parsed)
    return parsed
