"""What vLLM calls when its engine is up, before it has a server of its own."""

import asyncio
from argparse import Namespace
from types import SimpleNamespace

import pytest
from fastapi import FastAPI
from swap_samples import Engine, make_serving, publish
from vllm.entrypoints.serve.exception_handling.handlers.vllm_error import vllm_error_handler
from vllm.v1.engine.exceptions import EngineDeadError

from hone_contract.errors import RetryableFailure
from hone_contract.store import Store
from hone_server.current import set_current
from hone_server.plugin import Plugin


def test_an_engine_that_dies_during_the_gate_is_a_failure_that_may_pass(store: Store) -> None:
    model = publish(store, "v1")
    serving = make_serving(store, model, Engine(model))
    dead = SimpleNamespace(errored=True, is_running=False)
    serving.app = _of_vllm(dead)
    set_current(serving)
    with pytest.raises(RetryableFailure, match="failed with 500"):
        asyncio.run(Plugin().init_state(dead, serving.app.state, Namespace()))


def _of_vllm(engine: object) -> FastAPI:
    """Its way to answer when the engine is dead, which is to stop the server that has the application."""
    app = FastAPI(exception_handlers={EngineDeadError: vllm_error_handler})
    app.state.args = Namespace(log_error_stack=False)
    app.state.engine_client = engine

    @app.post("/v1/completions")
    def completions() -> None:
        raise EngineDeadError

    return app
