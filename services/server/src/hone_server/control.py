"""`hone-server swap`, `rollback` and `status`: they write and read `live`, which names what is to be served.

A server follows `live` by itself. What it made of it, it tells at `/ready`, which needs no key.
"""

import json
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import httpx

from hone_contract.artifact import Artifact, open_artifact
from hone_contract.edge import Parser
from hone_contract.errors import BadConfiguration, BadInput, RetryableFailure
from hone_contract.store import Store

COMMANDS = {
    "swap": "have a server serve another version, and wait until it does",
    "rollback": "have a server serve the version that it served before, and wait until it does",
    "status": "tell which version is live, which is served, and how its proof came out",
}
_POLL_SECONDS = 0.3
_URL = "http://127.0.0.1:8000"


def run_command(name: str, arguments: list[str]) -> int:
    """Exit code. Raises BadInput when the server refused the version, BadConfiguration, RetryableFailure."""
    options = _parser(name).parse_args(arguments)
    _check_url(options.url)
    store = Store(options.store) if options.store else Store.from_environment()
    model = _model(options.model, store)
    if name == "status":
        return _status(options, store, model)
    version = options.to if name == "swap" else _previous(options.url, model)
    wanted = open_artifact(store.model(model, version), "model")
    if not options.no_wait:
        # Before `live` is moved: it would not look at the same bytes again.
        _check_not_refused(options.url, _ask(options.url) or {}, wanted)
    before = store.read_live(model)
    store.point_live(model, version)
    print(f"{model}: live is {version}, was {before}", file=sys.stderr)
    return 0 if options.no_wait else _wait(options, model, wanted)


def _parser(name: str) -> Parser:
    parser = Parser(prog=f"hone-server {name}", description=COMMANDS[name].capitalize() + ".")
    parser.add_argument("--store", type=Path, help="the store's folder (default: $HONE_STORE or ./store)")
    parser.add_argument("--model", help="the model (default: the only one published)")
    parser.add_argument("--url", default=_URL, help=f"the server (default: {_URL})")
    if name == "swap":
        parser.add_argument("--to", required=True, metavar="VERSION", help="the version to serve")
    if name != "status":
        parser.add_argument(
            "--wait", type=float, default=600.0, metavar="SECONDS", help="for how long (default: 600)"
        )
        parser.add_argument("--no-wait", action="store_true", help="point live there, and leave")
    return parser


def _model(named: str | None, store: Store) -> str:
    published = store.published()
    if named is None and len(published) == 1:
        return published[0]
    if named in published:
        return str(named)
    known = ", ".join(published) or "none"
    raise BadConfiguration(f"{store.root}: choose one of the published models with --model: {known}")


def _status(options: Namespace, store: Store, model: str) -> int:
    """0 when what is live is served and proven, 75 otherwise."""
    live, told = store.read_live(model), _ask(options.url)
    print(json.dumps({"model": model, "live": live, "server": told}, indent=2))
    served = told is not None and told.get("ready") and told.get("model") == model
    return 0 if served and told and told.get("version") == live else RetryableFailure.exit_code


def _previous(url: str, model: str) -> str:
    told = _ask(url)
    if told is None or told.get("model") != model:
        raise RetryableFailure(
            f"{url}: no server of {model} answers; `hone-server swap --to VERSION` needs none"
        )
    if not told.get("previous"):
        raise BadConfiguration(
            f"{url}: served no other version of {model} before; choose one with `swap --to`"
        )
    return str(told["previous"])


def _wait(options: Namespace, model: str, wanted: Artifact) -> int:
    deadline, version = time.monotonic() + options.wait, wanted.path.name
    while time.monotonic() < deadline:
        told = _ask(options.url) or {}
        if told.get("version") == version and told.get("model") == model and not told.get("swapping"):
            print(f"{model}: {version} is served and proven", file=sys.stderr)
            return 0
        _check_not_refused(options.url, told, wanted)
        time.sleep(_POLL_SECONDS)
    raise RetryableFailure(
        f"{options.url} does not serve {version} after {options.wait:g} s; its log and /ready say why"
    )


def _check_not_refused(url: str, told: dict[str, Any], wanted: Artifact) -> None:
    """A version that was made anew since is another, which its digest tells."""
    version = wanted.path.name
    refusal = told.get("refused", {}).get(version)
    if refusal and refusal["digest"] == wanted.manifest.digest:
        raise BadInput(f"{url} refused {version}: {refusal['reason']}; {told['version']} is served on")


def _check_url(url: str) -> None:
    """Before `live` is moved."""
    try:
        httpx.URL(url)
    except httpx.InvalidURL as error:
        raise BadConfiguration(f"--url {url} is no address: {error}; write it like {_URL}") from error


def _ask(url: str) -> dict[str, Any] | None:
    """What the server says of itself; None: nobody answers."""
    try:
        told = httpx.get(f"{url.rstrip('/')}/ready", timeout=10).json()
    except (httpx.HTTPError, ValueError):
        return None
    return told if isinstance(told, dict) else None
