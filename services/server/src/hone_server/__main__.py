"""`hone-server`: everything is parsed and validated before vLLM is imported."""

import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack

from hone_contract.artifact import held
from hone_contract.edge import run
from hone_contract.errors import BadInput
from hone_contract.events import Reporter
from hone_server import control
from hone_server.command import set_environment
from hone_server.current import Serving
from hone_server.listening import listen, start_anew
from hone_server.lobby import Lobby
from hone_server.published import (
    choose_version,
    last_that_passed,
    wait_for_base,
    wait_for_model,
)
from hone_server.record import Memory, record_path
from hone_server.settings import Settings, parse_settings


def main() -> None:
    """Entry point of `hone-server`."""
    run(_main)


def _main() -> int | None:
    if sys.argv[1:2] and sys.argv[1] in control.COMMANDS:
        return control.run_command(sys.argv[1], sys.argv[2:])
    settings = parse_settings()
    reporter = Reporter("server")
    with listen(settings.host, settings.port) as listening:
        host, port = listening.getsockname()[:2]
        reporter.tell("listening", f"listening on http://{host}:{port}", host=host, port=port)
        if settings.keyless:
            reporter.tell("keyless", "whoever reaches this address is let in without a key", level="warning")
        serving = _find(settings, Lobby(listening), reporter)
        with ExitStack() as serving.holding:
            serving.holding.enter_context(held(serving.model.path))
            _serve(serving, listening)
        if serving.restarting:
            start_anew(listening)
    return None


def _find(settings: Settings, lobby: Lobby, reporter: Reporter) -> Serving:
    def tell(reason: str) -> None:
        if reason != lobby.reason:
            lobby.reason = reason
            reporter.tell("not_ready", reason)

    if settings.base is not None:
        return _find_base(settings, settings.base, lobby, reporter, tell)
    name, live = wait_for_model(settings, tell)
    memory = Memory(record_path(settings.state, settings.store.root, name, settings.port), reporter)
    tell(f"reading {name}/{live}")
    model, refusal = choose_version(settings.store, name, live, memory.record)
    version = model.path.name
    if refusal is not None:
        message = f"{live} is not served: {refusal}; {version} is, which passed last"
        reporter.tell("not_live", message, level="warning")
    tell(f"loading {name}/{version} into vLLM")
    return Serving(settings, name, model, lobby, reporter, memory)


def _find_base(
    settings: Settings, name: str, lobby: Lobby, reporter: Reporter, tell: Callable[[str], None]
) -> Serving:
    base = wait_for_base(settings, name, tell)
    memory = Memory(
        record_path(settings.state, settings.store.root, base.manifest.id, settings.port), reporter
    )
    tell(f"loading {base.manifest.id} into vLLM")
    return Serving(settings, base.manifest.id, base, lobby, reporter, memory)


def _serve(serving: Serving, listening: socket.socket) -> None:
    serving.memory.trying(serving.model)
    set_environment(serving.settings)
    try:
        from hone_server.serve import serve

        serve(serving, listening)
    except BadInput as error:
        if not _has_another(serving):
            raise
        # The start after this one takes it.
        serving.reporter.tell("restarting", f"{error}; starting anew with one that passed", level="error")
        serving.restarting = True
    finally:
        # Told to stop, which says nothing of the version.
        if serving.stopping or isinstance(sys.exception(), SystemExit | KeyboardInterrupt):
            serving.memory.gave_up()


def _has_another(serving: Serving) -> bool:
    store, record = serving.settings.store, serving.memory.record
    return last_that_passed(store, serving.name, record, serving.model.path.name) is not None


if __name__ == "__main__":
    main()
