"""`hone-store`: look at the store, check it, tidy it. `python -m hone_contract` is the same command."""

import argparse
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from hone_contract.artifact import open_artifact, remove
from hone_contract.edge import Parser, run
from hone_contract.errors import ArtifactBusy, ArtifactCorrupt, BadConfiguration, HoneError
from hone_contract.manifest import Kind
from hone_contract.retention import Policy, find_doomed
from hone_contract.store import Store


def main() -> None:
    """Entry point of `hone-store`."""
    run(_main)


def _main() -> None:
    parser = Parser(prog="hone-store", description="Look at Hone's store, check it, tidy it.")
    parser.add_argument("--store", type=Path, help="the store's folder (default: $HONE_STORE or ./store)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("ls", help="list every artifact, what it was made from, and what is live")
    commands.add_parser("verify", help="read every sealed byte back and compare it with its digest")
    _add_policy(commands.add_parser("gc", help="say what may go by age and use, and with --yes remove it"))
    options = parser.parse_args()
    store = Store(options.store) if options.store else Store.from_environment()
    if options.command == "gc":
        policy = Policy(options.keep, options.partials_after, options.sources)
        _collect(store, policy, remove_them=options.yes)
    else:
        command = _list if options.command == "ls" else _verify
        command(store)


def _add_policy(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--keep",
        type=_not_negative(int),
        default=Policy.keep,
        metavar="N",
        help="newest of each name that stay (default: %(default)s)",
    )
    parser.add_argument(
        "--partials-after",
        type=_not_negative(float),
        default=Policy.partial_hours,
        metavar="HOURS",
        help="what a killed writer left goes after this long (default: %(default)g)",
    )
    parser.add_argument(
        "--sources",
        action="store_true",
        help="bases, datasets and cached tokens too that nothing that stays was made from",
    )
    parser.add_argument("--yes", action="store_true", help="remove; without it nothing is touched")


def _not_negative(kind: Callable[[str], float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = kind(text)
        if not value >= 0:
            raise ValueError(text)
        return value

    # argparse names the type in its refusal.
    parse.__name__ = "number"
    return parse


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


def _collect(store: Store, policy: Policy, *, remove_them: bool) -> None:
    _check_there(store)
    freed = 0
    for doomed in find_doomed(store, policy):
        name, size = doomed.path.relative_to(store.root), f"{doomed.size / 1e6:.1f} MB"
        try:
            if remove_them:
                _remove(store, doomed.path)
        except (ArtifactBusy, FileNotFoundError):
            # Served or written by now, or sealed under its own name, or removed by another gc.
            print(f"in use   {name}  {size}")
            continue
        freed += doomed.size
        print(f"{'removed' if remove_them else 'may go':8} {name}  {size}  {doomed.why}")
    if remove_them:
        print(f"{freed / 1e6:.1f} MB are free now")
    else:
        print(f"{freed / 1e6:.1f} MB may go; nothing was removed: do it with --yes")


def _remove(store: Store, path: Path) -> None:
    if path.parent == store.root / "cache":
        shutil.rmtree(path)
    elif path.parent.parent == store.root / "models" and store.read_live(path.parent.name) == path.name:
        raise ArtifactBusy(f"{path} was published meanwhile")
    else:
        remove(path)


def _check_there(store: Store) -> None:
    if not store.root.is_dir():
        raise BadConfiguration(f"there is no store at {store.root}; name it with --store or HONE_STORE")


def _verify(store: Store) -> None:
    _check_there(store)
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
