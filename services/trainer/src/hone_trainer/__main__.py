"""`hone-trainer`: everything is parsed and validated before torch is imported."""

import argparse
import os
import sys
from pathlib import Path

from hone_contract.artifact import open_artifact, write_atomically
from hone_contract.edge import Parser, run
from hone_contract.errors import BadConfiguration
from hone_contract.events import Reporter
from hone_contract.model_files import CHAT_TEMPLATE, sha256_of
from hone_contract.store import Store


def main() -> None:
    """Entry point of `hone-trainer`."""
    run(_main)


def _main() -> None:
    options = _parser().parse_args()
    store = Store(options.store) if options.store else Store.from_environment()
    options.act(options, store)


def _parser() -> Parser:
    parser = Parser(
        prog="hone-trainer", description="Turn a run spec and a file of examples into a LoRA adapter."
    )
    parser.add_argument("--store", type=Path, help="the store's folder (default: $HONE_STORE or ./store)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = commands.add_parser("import-base", help="bring a base model into the store, as safetensors")
    command.add_argument(
        "source", help="demo:smollm2-135m-instruct, a folder (./…), or a Hub id (owner/name)"
    )
    command.add_argument("--name", help="its name in the store (default: the Hub id, or the folder's name)")
    command.add_argument("--revision", help="branch, tag or commit on the Hub")
    command.set_defaults(act=_import_base)

    command = commands.add_parser("prepare", help="validate and seal a run's data, without training")
    _add_run(command)
    command.add_argument("--strict", action="store_true", help="refuse the data at its first bad record")
    command.set_defaults(act=_prepare)

    command = commands.add_parser("preview", help="show records as the model will see them")
    _add_run(command)
    command.add_argument("--records", type=_count, default=3, help="how many to show (default: 3)")
    command.add_argument("--html", type=Path, metavar="FILE", help="write a page, in place of the text")
    command.set_defaults(act=_preview)

    command = commands.add_parser(
        "train", help="train a run; fetches its base and prepares its data as needed"
    )
    _add_run(command)
    command.add_argument("--run-id-file", type=Path, help="file to write the run's id to, for hone-merger")
    command.set_defaults(act=_train)

    command = commands.add_parser("generate", help="let a base model answer a file of questions")
    command.add_argument("base", help="name of a base in the store")
    command.add_argument("questions", type=Path, help="messages JSONL; each record's last answer is left out")
    command.add_argument("--output", type=Path, required=True, help="file to write, messages JSONL")
    command.add_argument(
        "--max-tokens", type=_count, default=128, help="most tokens an answer (default: 128)"
    )
    command.set_defaults(act=_generate)
    return parser


def _add_run(command: argparse.ArgumentParser) -> None:
    command.add_argument("spec", type=Path, help="the run spec, YAML or JSON")
    command.add_argument("--data", type=Path, help="training file, in place of the spec's data.train")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _import_base(options: argparse.Namespace, store: Store) -> None:
    from hone_trainer.base import import_base, locate

    base = import_base(locate(options.source, options.revision, options.name), store)
    source = base.manifest.lineage["source"].id
    Reporter("trainer").tell("base_ready", f"base {base.manifest.id} from {source}", id=base.manifest.id)


def _prepare(options: argparse.Namespace, store: Store) -> None:
    from hone_trainer.plan import prepare_data

    _, dataset = prepare_data(options.spec, options.data, store, strict=options.strict)
    print(dataset.manifest.id)


def _preview(options: argparse.Namespace, store: Store) -> None:
    from hone_trainer.plan import make_plan

    if options.html is not None and not options.html.parent.is_dir():
        raise BadConfiguration(f"--html: there is no folder {options.html.parent}; make it first")
    plan = make_plan(options.spec, options.data, store)
    from hone_trainer.preview import as_text, preview
    from hone_trainer.preview_page import as_page

    shown = preview(plan, options.records)
    if options.html is None:
        print(as_text(shown, colour=sys.stdout.isatty()), end="")
    else:
        write_atomically(options.html, as_page(shown, f"{plan.spec.title}: {len(shown)} records"))
        print(options.html)


def _train(options: argparse.Namespace, store: Store) -> None:
    # TRL tells its makers of every run; whoever wants that sets the variable to 0.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from hone_trainer.plan import make_plan

    if options.run_id_file is not None:
        # Whoever waits for the file must not take another run's id from it.
        options.run_id_file.unlink(missing_ok=True)
    plan = make_plan(options.spec, options.data, store)
    if store.adapter(plan.run_id).exists():
        open_artifact(store.adapter(plan.run_id), "adapter")
        Reporter("trainer").tell(
            "already_trained", f"run {plan.run_id} was trained before", run_id=plan.run_id
        )
    else:
        from hone_trainer.train import train

        train(plan, store)
    if options.run_id_file is not None:
        write_atomically(options.run_id_file, plan.run_id + "\n")
    print(plan.run_id)


def _generate(options: argparse.Namespace, store: Store) -> None:
    from hone_trainer.data.one_file import read_records

    base = open_artifact(store.base(options.base), "base")
    sha256_of(base.path, CHAT_TEMPLATE)
    records = read_records(options.questions)
    if not options.output.parent.is_dir():
        raise BadConfiguration(f"--output: there is no folder {options.output.parent}; make it first")
    from hone_trainer.answers import answer

    answer(base, records, options.max_tokens, options.output)


if __name__ == "__main__":
    main()
