"""`hone-api`: serve the API, and say who may ask it and whom it tells."""

import argparse
import json
import os
import re
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from hone_contract.edge import Parser, run
from hone_contract.errors import BadConfiguration

if TYPE_CHECKING:
    from hone_api.database.session import Database
    from hone_api.keys import Limit
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
    _add_limits(create)
    create.set_defaults(act=_create_key)
    keys.add_parser("list", help="which there are").set_defaults(act=_list_keys)
    revoke = keys.add_parser("revoke", help="let a key in no more")
    revoke.add_argument("id", help="as `list` shows it")
    revoke.set_defaults(act=_revoke_key)
    limit = keys.add_parser("limit", help="change what a key may ask in a minute")
    limit.add_argument("id", help="as `list` shows it")
    _add_limits(limit)
    limit.set_defaults(act=_limit_key)
    usage = commands.add_parser("usage", help="what was asked of models, by day, key and model")
    usage.add_argument("--project", metavar="NAME", help="this one's alone")
    usage.add_argument("--key", metavar="ID", help="this one's alone")
    usage.add_argument("--since", type=_day, metavar="DATE", help="from this day on (UTC), as in 2026-01-31")
    usage.add_argument("--json", action="store_true", help="write JSON")
    usage.set_defaults(act=_usage)
    _add_webhooks(commands.add_parser("webhooks", help="whom to tell of a job's end"))
    return parser


def _add_limits(parser: argparse.ArgumentParser) -> None:
    """Only what is said is there afterwards, since `default` is a value too."""
    for kind in ("requests", "tokens"):
        parser.add_argument(
            f"--{kind}-per-minute",
            type=_limit,
            default=argparse.SUPPRESS,
            metavar="N",
            help="of models; `none`: as many as come; `default`: as the settings say, which a new key has",
        )


def _limit(text: str) -> int | None:
    if text in ("none", "default"):
        return 0 if text == "none" else None
    if not re.fullmatch("[1-9][0-9]{0,11}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no limit; say a whole number above 0, none or default")
    return int(text)


def _day(text: str) -> int:
    """Its first second."""
    try:
        return int(datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp())
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no day; write it as 2026-01-31") from None


def _limits(options: argparse.Namespace) -> "dict[Limit, int | None]":
    from hone_api.keys import LIMITS

    return {name: getattr(options, name) for name in LIMITS if name in options}


def _add_webhooks(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    create = commands.add_parser("create", help="make a webhook, and print its secret once")
    create.add_argument("--project", default="default", help="of whose jobs it tells")
    create.add_argument("--url", required=True, help="where to: https://…")
    create.add_argument(
        "--event",
        action="append",
        default=[],
        dest="events",
        metavar="NAME",
        help="such as fine_tuning.job.failed; may be said several times (default: all)",
    )
    create.set_defaults(act=_create_webhook)
    show = commands.add_parser("list", help="which there are, and how far they are behind")
    show.set_defaults(act=_list_webhooks)
    delete = commands.add_parser("delete", help="tell it nothing more, not even what waits")
    delete.add_argument("id", help="as `list` shows it")
    delete.set_defaults(act=_delete_webhook)


def _port() -> int:
    said = os.environ.get("HONE_API_PORT") or "8080"
    if not said.isdecimal():
        raise BadConfiguration(f"HONE_API_PORT={said} is no port; choose 0 to 65535")
    return int(said)


def _serve(options: argparse.Namespace, settings: "Settings") -> None:
    from hone_api.serve import local, serve

    launching = local
    if settings.launcher == "kubernetes":
        # Its client takes half a second to import.
        from hone_api.on_cluster import on_cluster

        launching = on_cluster
    serve(settings, options.host, options.port, launching)


def _create_key(options: argparse.Namespace, settings: "Settings") -> None:
    from hone_api.keys import create_key

    with _database(settings).writing() as session:
        print(create_key(session, options.project, options.scopes.split(","), **_limits(options)))


def _list_keys(_: argparse.Namespace, settings: "Settings") -> None:
    from sqlalchemy import select

    from hone_api.database.tables import Key, Project

    with _database(settings).reading() as session:
        for key, project in session.execute(select(Key, Project).join(Project).order_by(Key.created_at)):
            state = "revoked" if key.revoked_at else "valid"
            owner, scopes = f"{project.name:20} {project.id}", ",".join(key.scopes)
            shown = f"{key.id}  {key.hint}…  {state:8} {owner}  {scopes}"
            for number, kind in ((key.requests_per_minute, "requests"), (key.tokens_per_minute, "tokens")):
                shown += "" if number is None else f"  {kind}/min: {number or 'none'}"
            print(shown)


def _revoke_key(options: argparse.Namespace, settings: "Settings") -> None:
    from hone_api.keys import revoke_key

    with _database(settings).writing() as session:
        revoke_key(session, options.id)


def _limit_key(options: argparse.Namespace, settings: "Settings") -> None:
    from hone_api.keys import limit_key

    if not (limits := _limits(options)):
        raise BadConfiguration("say --requests-per-minute, --tokens-per-minute, or both")
    with _database(settings).writing() as session:
        limit_key(session, options.id, limits)


def _usage(options: argparse.Namespace, settings: "Settings") -> None:
    from hone_api.metering.usage import lines

    with _database(settings).reading() as session:
        rows = [asdict(each) for each in lines(session, options.project, options.key, options.since)]
    if options.json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    elif rows:
        _print_table([[*rows[0]], *([str(value) for value in row.values()] for row in rows)])


def _print_table(rows: list[list[str]]) -> None:
    """The first is the heading; numbers stand to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if rows[-1][at].isdecimal() else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def _create_webhook(options: argparse.Namespace, settings: "Settings") -> None:
    from hone_api.webhooks.endpoints import create_webhook

    with _database(settings).writing() as session:
        made = create_webhook(session, options.project, options.url, options.events, settings.webhooks)
        print(made.secret)


def _list_webhooks(_: argparse.Namespace, settings: "Settings") -> None:
    from hone_api.webhooks.endpoints import list_webhooks

    with _database(settings).reading() as session:
        for each in list_webhooks(session):
            state = "disabled" if each.webhook.disabled_at else "active"
            events = ",".join(name.rpartition(".")[2] for name in each.webhook.events)
            last = f"; last: {each.outcome}" if each.outcome else ""
            print(
                f"{each.webhook.id}  {state:8} {each.project:20} {events}  {each.url}  "
                f"{each.pending} pending{last}"
            )


def _delete_webhook(options: argparse.Namespace, settings: "Settings") -> None:
    from hone_api.webhooks.endpoints import delete_webhook

    with _database(settings).writing() as session:
        delete_webhook(session, options.id)


def _database(settings: "Settings") -> "Database":
    from hone_api.database.session import Database

    settings.make_data()
    database = Database(settings.database_url)
    database.upgrade()
    return database


if __name__ == "__main__":
    main()
