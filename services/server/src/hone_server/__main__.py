"""`hone-server`: everything is parsed and validated before vLLM is imported."""

import socket

from hone_contract.artifact import held
from hone_contract.edge import run
from hone_contract.errors import BadConfiguration
from hone_contract.events import Reporter
from hone_server.command import set_environment
from hone_server.current import Serving
from hone_server.lobby import Lobby
from hone_server.published import wait_for_model
from hone_server.settings import Settings, parse_settings


def main() -> None:
    """Entry point of `hone-server`."""
    run(_main)


def _main() -> None:
    settings = parse_settings()
    reporter = Reporter("server")
    with _listen(settings) as listening:
        host, port = listening.getsockname()[:2]
        reporter.tell("listening", f"listening on http://{host}:{port}", host=host, port=port)
        lobby = Lobby(listening)
        serving = _find(settings, lobby, reporter)
        with held(serving.model.path):
            from hone_server.serve import serve

            serve(serving, listening)


def _find(settings: Settings, lobby: Lobby, reporter: Reporter) -> Serving:
    def tell(reason: str) -> None:
        if reason != lobby.reason:
            lobby.reason = reason
            reporter.tell("not_ready", reason)

    name, model = wait_for_model(settings, tell)
    tell(f"loading {name}/{model.path.name} into vLLM")
    set_environment()
    return Serving(settings, name, model, lobby, reporter)


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=1024)
    except OSError as error:
        raise BadConfiguration(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror}; choose another --port"
        ) from error


if __name__ == "__main__":
    main()
