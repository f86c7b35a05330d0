"""`hone-merger`: everything is parsed and validated before torch is imported."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from hone_contract.artifact import Artifact, held, open_artifact
from hone_contract.edge import Parser, run
from hone_contract.errors import ArtifactExists, BadConfiguration, RetryableFailure
from hone_contract.events import Reporter
from hone_contract.store import Store
from hone_merger.adapter_config import check_adapter, named_base
from hone_merger.lookup import find_model, locate
from hone_merger.plan import BaseWeights, Dtype, Plan, make_plan
from hone_merger.publishing.archive import check_archive, write_archive
from hone_merger.publishing.bundle import Bundle, make_bundle
from hone_merger.publishing.folder import write_folder
from hone_merger.publishing.gguf import CONVERTER, GgufType, find_converter, write_gguf
from hone_merger.publishing.place import check_place
from hone_merger.room import TO_MERGE, told_when_full

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[Parser]


def main() -> None:
    """Entry point of `hone-merger`."""
    run(_main)


def _main() -> None:
    options = _parser().parse_args()
    store = Store(options.store) if options.store else Store.from_environment()
    options.act(options, store, Reporter("merger"))


def _parser() -> Parser:
    parser = Parser(prog="hone-merger", description="Make a model from what was trained, and publish it.")
    parser.add_argument("--store", type=Path, help="the store's folder (default: $HONE_STORE or ./store)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = commands.add_parser(
        "merge", help="fuse what a run trained, prove the result, point `live` at it"
    )
    which = command.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "run_id",
        nargs="?",
        metavar="RUN_ID",
        help="the run id that hone-trainer printed, or an imported adapter's id",
    )
    which.add_argument("--run-id-file", type=Path, help="file that hone-trainer train --run-id-file wrote")
    command.add_argument("--name", help="the model's name (default: the run's)")
    command.add_argument(
        "--dtype",
        choices=get_args(Dtype),
        help="number format of the model's weights (default: what each is in the base)",
    )
    command.add_argument(
        "--base-weights",
        choices=get_args(BaseWeights),
        help="for what QLoRA trained: fuse it into the base as it is, into what 4 bits leave of it, or into "
        "what is nearer to the training, which is measured (default: auto)",
    )
    command.add_argument(
        "--force-base",
        action="store_true",
        help="merge even into another base than the one of the training, which the report then says",
    )
    command.set_defaults(act=_merge)

    command = commands.add_parser("import-adapter", help="take over a plain PEFT folder made elsewhere")
    command.add_argument("folder", type=Path, help="holds adapter_config.json and adapter_model.safetensors")
    command.add_argument(
        "--base", help="name of its base in the store (default: the one that its configuration names)"
    )
    command.add_argument("--name", help="the adapter's name (default: the folder's)")
    command.add_argument(
        "--qlora", action="store_true", help="its base was in 4 bits (NF4, double quantisation) in training"
    )
    command.set_defaults(act=_import_adapter)
    _add_verify(commands)
    _add_publish(commands)
    return parser


def _add_verify(commands: "Commands") -> None:
    command = commands.add_parser("verify", help="look at a merged model once more; prints JSON")
    command.add_argument(
        "model", metavar="MODEL", help="NAME, whose live version it is then, or NAME/VERSION"
    )
    command.set_defaults(act=_verify)


def _add_publish(commands: "Commands") -> None:
    command = commands.add_parser("publish", help="a model or an adapter leaves the store, with a card")
    command.add_argument(
        "artifact", metavar="WHAT", help="a model, NAME or NAME/VERSION, or an adapter by its id"
    )
    where = command.add_mutually_exclusive_group(required=True)
    where.add_argument("--hub", metavar="OWNER/NAME", help="to a repository on the Hub, with HF_TOKEN")
    where.add_argument("--folder", type=Path, help="to a new folder, ready for Git LFS")
    where.add_argument("--archive", type=Path, help="to a .tar or .tar.gz file, with its digest beside it")
    where.add_argument("--gguf", type=Path, help="to one file for llama.cpp, by its converter")
    command.add_argument(
        "--public", action="store_true", help="a new repository is public (default: private)"
    )
    command.add_argument(
        "--with-probes", action="store_true", help="probes.json too, which has conversations from the data"
    )
    command.add_argument("--gguf-type", choices=get_args(GgufType), help="number format (default: bf16)")
    command.add_argument(
        "--converter", type=Path, help=f"llama.cpp's {CONVERTER} (default: in $LLAMA_CPP, or on PATH)"
    )
    command.set_defaults(act=_publish)


def _merge(options: argparse.Namespace, store: Store, reporter: Reporter) -> None:
    run_id = options.run_id or _read_run_id(options.run_id_file)
    plan = make_plan(
        store,
        run_id,
        options.name,
        dtype=options.dtype,
        base_weights=options.base_weights,
        force_base=options.force_base,
    )
    with told_when_full(store.model(plan.name, plan.version), TO_MERGE):
        _merge_and_point(plan, store, reporter)
    reporter.tell("published", f"{plan.name} is now {plan.version}", name=plan.name, version=plan.version)
    print(f"{plan.name}/{plan.version}")


def _merge_and_point(plan: Plan, store: Store, reporter: Reporter) -> None:
    target = store.model(plan.name, plan.version)
    if target.exists():
        merged = open_artifact(target, "model", digests=True)
        if merged.manifest.lineage != plan.lineage:
            raise ArtifactExists(
                f"{target} was merged from another {plan.kind} or base of the same names; "
                "remove it, or choose another --name"
            )
        reporter.tell("already_merged", f"model {plan.name}/{plan.version} was merged before")
    else:
        from hone_merger.merge import merge

        merge(plan, store, reporter)
    store.point_live(plan.name, plan.version)


def _read_run_id(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError as error:
        raise RetryableFailure(f"{path} is not there: the training that writes it is not done") from error


def _import_adapter(options: argparse.Namespace, store: Store, reporter: Reporter) -> None:
    check_adapter(options.folder)
    named = named_base(options.folder)
    base = _open_base(options.base or named, options.folder, store)
    if options.base and named and store.base(named) != base.path:
        told = f"{options.folder} names {named} as its base, and is imported for {options.base}"
        reporter.tell("another_base", told, level="warning")
    from hone_merger.imported import import_adapter

    adapter = import_adapter(options.folder, base, options.name, store, qlora=options.qlora)
    reporter.tell("adapter_ready", f"adapter {adapter.manifest.id}", id=adapter.manifest.id)
    print(adapter.manifest.id)


def _verify(options: argparse.Namespace, store: Store, reporter: Reporter) -> None:
    model = find_model(store, options.model)
    from hone_merger.verify import verify

    print(json.dumps(verify(model, store, reporter)))


def _publish(options: argparse.Namespace, store: Store, reporter: Reporter) -> None:
    send = _destination(options, store, reporter)
    kind, path = locate(store, options.artifact)
    with held(path):
        artifact = open_artifact(path, kind, digests=True)
        reporter.tell("publishing", f"publishing {kind} {artifact.manifest.id}")
        if options.with_probes:
            told = "probes.json goes too: it has conversations from the data"
            reporter.tell("with_probes", told, level="warning")
        where = send(artifact)
    reporter.tell("published", f"{artifact.manifest.id} is at {where}")
    print(where)


def _destination(
    options: argparse.Namespace, store: Store, reporter: Reporter
) -> Callable[[Artifact], object]:
    """What sends an artifact there and says where it is; what is wrong with the place is told at once."""
    for option, place in (("public", "hub"), ("gguf_type", "gguf"), ("converter", "gguf")):
        if getattr(options, option) and getattr(options, place) is None:
            raise BadConfiguration(f"--{option.replace('_', '-')} goes with --{place}; leave it out")
    if options.with_probes and options.gguf is not None:
        raise BadConfiguration("--with-probes: a GGUF file has no place for probes; leave it out")

    def bundle(artifact: Artifact) -> Bundle:
        return make_bundle(artifact, store, with_probes=options.with_probes)

    if options.hub is not None:
        # The Hub's client takes longer to import than all the rest.
        from hone_merger.publishing.hub import check_hub, upload

        token = check_hub(options.hub)
        return lambda artifact: upload(bundle(artifact), options.hub, token, reporter, public=options.public)
    if options.folder:
        check_place(options.folder, store, folder=True)
        return lambda artifact: write_folder(bundle(artifact), options.folder, store, reporter)
    if options.archive:
        check_archive(options.archive, store)
        return lambda artifact: write_archive(bundle(artifact), options.archive, store, reporter)
    check_place(options.gguf, store)
    converter = find_converter(options.converter)
    return lambda artifact: write_gguf(
        artifact, options.gguf, options.gguf_type or "bf16", converter, store, reporter
    )


def _open_base(name: str | None, folder: Path, store: Store) -> Artifact:
    if name is None:
        raise BadConfiguration(f"{folder} does not name its base; name it with --base")
    path = store.base(name)
    if not path.exists():
        raise BadConfiguration(
            f"{folder} is an adapter of {name}, which the store does not have: `hone-trainer import-base "
            f"{name}` brings it in; or name another base with --base"
        )
    return open_artifact(path, "base", digests=True)


if __name__ == "__main__":
    main()
