"""`hone-api`: serve the API, and make keys for it."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from hone_contract.edge import Parser, run
from hone_contract.errors import BadConfiguration

if TYPE_CHECKING:
    from hone_api.database.session import Database
    from hone_api.settings import Settings


def main() -> None:
    run(_main)


def _main() -> int | None:
    options = _parser().parse_args()
    from hone_api.settings import load_settings

    options.act(options, load_settings(options.config))
    return None


def _parser() -> Parser:
    parser = Parser(prog="hone-api", description=__doc__)
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings (default: $HONE_API_CONFIG)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="answer requests, and bring jobs on")
    serve.add_argument(
        "--host", default=os.environ.get("HONE_API_HOST") or "127.0.0.1", help="default: loopback"
    )
    serve.add_argument("--port", type=int, default=_port(), help="default: $HONE_API_PORT, else 8080")
    serve.set_defaults(act=_serve)
    keys = commands.add_parser("keys", help="who may ask").add_subparsers(required=True, metavar="COMMAND")
    create = keys.add_parser("create", help="make a key, and print it once")
    create.add_argument("--project", default="default", help="whose files, jobs and models it opens")
    create.add_argument("--scopes", default="files,tune,chat", help="of files, tune, chat, admin")
    create.set_defaults(act=_create_key)
    keys.add_parser("list", help="which there are").set_defaults(act=_list_keys)
    revoke = keys.add_parser("revoke", help="let a key in no more")
    revoke.add_argument("id", help="as `list` shows it")
    revoke.set_defaults(act=_revoke_key)
    return parser


def _port() -> int:
    said = os.environ.get("HONE_API_PORT") or "8080"
    if not said.isdecimal():
        raise BadConfiguration(f"HONE_API_PORT={said} is no port; choose 0 to 65535")
    return int(said)


def _serve(options: argparse.Namespace, settings: "Settings") -> None:
    from hone_api.serve import serve

    serve(settings, options.host, options.port)


def _create_key(options: argparse.Namespace, settings: "Settings") -> None:
    from hone_api.keys import create_key

    with _database(settings).writing() as session:
        print(create_key(session, options.project, options.scopes.split(",")))


def _list_keys(_: argparse.Namespace, settings: "Settings") -> None:
    from sqlalchemy import select

    from hone_api.database.tables import Key, Project

    with _database(settings).reading() as session:
        for key, project in session.execute(select(Key, Project).join(Project).order_by(Key.created_at)):
            state = "revoked" if key.revoked_at else "valid"
            owner, scopes = f"{project.name:20} {project.id}", ",".join(key.scopes)
            print(f"{key.id}  {key.hint}…  {state:8} {owner}  {scopes}")


def _revoke_key(options: argparse.Namespace, settings: "Settings") -> None:
    from hone_api.keys import revoke_key

    with _database(settings).writing() as session:
        revoke_key(session, options.id)


def _database(settings: "Settings") -> "Database":
    from hone_api.database.session import Database

    settings.make_data()
    database = Database(settings.database_url)
    database.upgrade()
    return database


if __name__ == "__main__":
    main()
