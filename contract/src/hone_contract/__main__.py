"""`hone-store`: look at the store and check it. `python -m hone_contract` is the same command."""

import sys
from pathlib import Path

from hone_contract.artifact import open_artifact
from hone_contract.edge import Parser, run
from hone_contract.errors import ArtifactCorrupt, BadConfiguration, HoneError
from hone_contract.manifest import Kind
from hone_contract.store import Store


def main() -> None:
    """Entry point of `hone-store`."""
    run(_main)


def _main() -> None:
    parser = Parser(prog="hone-store", description="Look at Hone's store and check it.")
    parser.add_argument("--store", type=Path, help="the store's folder (default: $HONE_STORE or ./store)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("ls", help="list every artifact, what it was made from, and what is live")
    commands.add_parser("verify", help="read every sealed byte back and compare it with its digest")
    options = parser.parse_args()
    store = Store(options.store) if options.store else Store.from_environment()
    command = _list if options.command == "ls" else _verify
    command(store)


def _list(store: Store) -> None:
    for kind, path in store.artifacts():
        print(f"{kind:10} {path.relative_to(store.root)}  {_describe(store, kind, path)}")
    for path in store.partials():
        print(f"partial    {path.relative_to(store.root)}  being written, or left by a killed writer")


def _describe(store: Store, kind: Kind, path: Path) -> str:
    try:
        manifest = open_artifact(path, kind).manifest
        live = " live" if kind == "model" and store.read_live(path.parent.name) == path.name else ""
    except HoneError as error:
        return f"BROKEN: {error}"
    size = sum(entry.size for entry in manifest.files)
    made_from = ", ".join(f"{role} {source.id}" for role, source in manifest.lineage.items())
    return f"{manifest.digest[:12]} {size / 1e6:.1f} MB{live} from {made_from or 'nothing recorded'}"


def _verify(store: Store) -> None:
    if not store.root.is_dir():
        raise BadConfiguration(f"there is no store at {store.root}; name it with --store or HONE_STORE")
    broken = 0
    for kind, path in store.artifacts():
        try:
            open_artifact(path, kind, digests=True)
            print(f"ok      {path.relative_to(store.root)}")
        except HoneError as error:
            broken += 1
            print(f"BROKEN  {path.relative_to(store.root)}: {error}")
    for name in store.published():
        try:
            open_artifact(store.model(name, str(store.read_live(name))), "model")
        except HoneError as error:
            broken += 1
            print(f"BROKEN  {store.live(name).relative_to(store.root)}: {error}")
    sys.stdout.flush()
    if broken:
        raise ArtifactCorrupt(f"{broken} artifact(s) in {store.root} cannot be trusted; see the lines above")


if __name__ == "__main__":
    main()
