"""`hone-trainer`: everything is parsed and validated before torch is imported."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from hone_contract.artifact import open_artifact, write_atomically
from hone_contract.edge import Parser, run
from hone_contract.errors import BadConfiguration, BadInput
from hone_contract.events import Reporter
from hone_contract.model_files import CHAT_TEMPLATE, sha256_of
from hone_contract.store import Store
from hone_trainer.answering.sampling import Sampling, add_sampling, sampling_of

if TYPE_CHECKING:
    from hone_trainer.plan import Plan

Commands: TypeAlias = "argparse._SubParsersAction[Parser]"

_SEE_GENERATE = ". See: hone-trainer generate --help"


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

    _add_import_base(commands)
    _add_check(commands)
    _add_prepare(commands)
    _add_preview(commands)
    _add_plan(commands)
    _add_train(commands)
    _add_evaluate(commands)
    _add_generate(commands)
    return parser


def _add_import_base(commands: Commands) -> None:
    command = commands.add_parser("import-base", help="bring a base model into the store, as safetensors")
    command.add_argument(
        "source", help="demo:smollm2-135m-instruct, a folder (./…), or a Hub id (owner/name)"
    )
    command.add_argument("--name", help="its name in the store (default: the Hub id, or the folder's name)")
    command.add_argument("--revision", help="branch, tag or commit on the Hub")
    command.set_defaults(act=_import_base)


def _add_check(commands: Commands) -> None:
    command = commands.add_parser("check", help="say whether a file can be learned from, or which lines not")
    command.add_argument("file", type=Path, help="records; JSON lines where its name has no ending")
    command.add_argument("--json", action="store_true", help="write one line of JSON")
    command.add_argument("--records", type=_count, metavar="N", help="look at the first N only")
    command.set_defaults(act=_check)


def _add_prepare(commands: Commands) -> None:
    command = commands.add_parser("prepare", help="validate and seal a run's data, without training")
    _add_run(command)
    command.add_argument("--strict", action="store_true", help="refuse the data at its first bad record")
    command.set_defaults(act=_prepare)


def _add_preview(commands: Commands) -> None:
    command = commands.add_parser("preview", help="show records as the model will see them")
    _add_run(command)
    command.add_argument("--records", type=_count, default=3, help="how many to show (default: 3)")
    command.add_argument("--html", type=Path, metavar="FILE", help="write a page, in place of the text")
    command.set_defaults(act=_preview)


def _add_plan(commands: Commands) -> None:
    command = commands.add_parser("plan", help="say what a run will take, and refuse one that cannot fit")
    _add_run(command)
    command.add_argument("--json", action="store_true", help="write JSON, sizes in bytes")
    command.set_defaults(act=_plan)


def _add_train(commands: Commands) -> None:
    command = commands.add_parser(
        "train", help="train a run; fetches its base and prepares its data as needed"
    )
    _add_run(command)
    command.add_argument("--run-id-file", type=Path, help="file to write the run's id to, for hone-merger")
    command.add_argument(
        "--metrics-port",
        type=_port,
        metavar="PORT",
        help="serve /metrics here while it trains; 0: a free port (default: $HONE_METRICS_PORT, else not)",
    )
    command.add_argument(
        "--metrics-host",
        metavar="HOST",
        help="address to serve it at (default: $HONE_METRICS_HOST or 127.0.0.1)",
    )
    command.add_argument(
        "--processes",
        type=_count,
        metavar="N",
        help="how many train together here (default: one for each GPU, or one)",
    )
    command.set_defaults(act=_train)


def _add_evaluate(commands: Commands) -> None:
    command = commands.add_parser("evaluate", help="measure what a run made, beside its base")
    command.add_argument("run_id", help="the run id that train printed")
    command.add_argument(
        "--model",
        metavar="NAME[/VERSION]",
        help="merged model to measure too (default: the run's, if there is one)",
    )
    command.add_argument("--data", type=Path, help="records, in place of those that the run set aside")
    command.add_argument("--limit", type=_count, metavar="N", help="so many of the records, evenly spread")
    command.add_argument(
        "--no-generation", dest="generation", action="store_false", help="no answers, so no BLEU and chrF"
    )
    command.add_argument(
        "--max-tokens",
        type=_count,
        metavar="N",
        help="most tokens an answer (default: twice the longest expected)",
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="file to write the numbers to as well")
    command.set_defaults(act=_evaluate)


def _add_generate(commands: Commands) -> None:
    command = commands.add_parser("generate", help="let a base, a run or a merged model answer")
    command.add_argument("model", help="a base, a run id, or models/NAME[/VERSION]")
    what = command.add_mutually_exclusive_group()
    what.add_argument(
        "questions",
        type=Path,
        nargs="?",
        help="records, or a .txt of prompts; a record's last answer is left out",
    )
    what.add_argument("--prompt", metavar="TEXT", help="one question")
    what.add_argument("--random", action="store_true", help="a record of the data that the run learned from")
    command.add_argument("--system", metavar="TEXT", help="system prompt for what has none")
    command.add_argument("--compare", action="store_true", help="let the base answer too")
    command.add_argument("--output", type=Path, help="file to write, messages JSONL")
    command.add_argument(
        "--max-tokens", type=_count, default=512, help="most tokens an answer (default: 512)"
    )
    add_sampling(command)
    command.set_defaults(act=_generate)


def _add_run(command: argparse.ArgumentParser) -> None:
    command.add_argument("spec", type=Path, help="the run spec, YAML or JSON")
    command.add_argument("--data", type=Path, help="training file, in place of the spec's data.train")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port, a whole number from 0 to 65535")
    return int(text)


def _import_base(options: argparse.Namespace, store: Store) -> None:
    from hone_trainer.base import import_base, locate

    base = import_base(locate(options.source, options.revision, options.name), store)
    source = base.manifest.lineage["source"].id
    Reporter("trainer").tell("base_ready", f"base {base.manifest.id} from {source}", id=base.manifest.id)


def _check(options: argparse.Namespace, _: Store) -> None:
    from hone_trainer.data.check import as_json, as_text, check

    found = check(options.file, options.records)
    print(as_json(found) if options.json else as_text(found), flush=True)
    if not found.is_good:
        sys.exit(BadInput.exit_code)


def _prepare(options: argparse.Namespace, store: Store) -> None:
    from hone_trainer.plan import prepare_data

    _, dataset = prepare_data(options.spec, options.data, store, strict=options.strict)
    print(dataset.manifest.id)


def _preview(options: argparse.Namespace, store: Store) -> None:
    from hone_trainer.plan import make_plan

    _check_folder("--html", options.html)
    plan = make_plan(options.spec, options.data, store)
    from hone_trainer.chat.preview import as_text, preview
    from hone_trainer.chat.preview_page import as_page

    shown = preview(plan, options.records)
    if options.html is None:
        print(as_text(shown, colour=sys.stdout.isatty()), end="")
    else:
        write_atomically(options.html, as_page(shown, f"{plan.spec.title}: {len(shown)} conversations"))
        print(options.html)


def _plan(options: argparse.Namespace, store: Store) -> None:
    from hone_trainer.plan import make_plan

    plan = make_plan(options.spec, options.data, store)
    from hone_trainer.sizing.estimate import check_fits, estimate
    from hone_trainer.sizing.tables import as_json, as_text

    found = estimate(plan)
    print(as_json(found) if options.json else as_text(found), end="\n" if options.json else "", flush=True)
    check_fits(plan)


def _train(options: argparse.Namespace, store: Store) -> None:
    from hone_trainer.launch import rank
    from hone_trainer.training.stopping import Stopped, stopping

    try:
        # From here on, and not only while it trains: whatever was asked to stop may be begun again.
        with stopping():
            _train_run(options, store)
    except Stopped as error:
        if rank() == 0:
            raise
        # Of several processes the first one tells it.
        sys.exit(error.exit_code)


def _train_run(options: argparse.Namespace, store: Store) -> None:
    # TRL tells its makers of every run; whoever wants that sets the variable to 0.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from hone_trainer.launch import end_with_launcher, is_launched, launch, rank, same_command, world
    from hone_trainer.node import this_node
    from hone_trainer.reporting.exporter import metrics_address

    end_with_launcher()
    if world() > 1:
        _check_backend(options)
        from hone_trainer.training.ranks import first_does, join, losing_none

        with losing_none():
            join()
            plan, processes = first_does(lambda: _plan_run(options, store))
    elif (node := this_node()).count > 1 and not is_launched():
        # One of all machines plans, when they have met: each would otherwise fetch the base.
        sys.exit(launch(same_command(), _processes_here(options, node.count), node))
    else:
        plan, processes = _plan_run(options, store)
        if processes > 1:
            sys.exit(launch(same_command(), processes))
    if processes > 0:
        from hone_trainer.train import take_part, train

        if rank() > 0:
            take_part(plan, store)
        else:
            train(plan, store, metrics_address(options.metrics_port, options.metrics_host))
    if rank() == 0:
        if options.run_id_file is not None:
            write_atomically(options.run_id_file, plan.run_id + "\n")
        print(plan.run_id, flush=True)
    if world() > 1:
        from hone_trainer.training.ranks import losing_none, stay_for_the_first

        with losing_none():
            stay_for_the_first()


def _check_backend(options: argparse.Namespace) -> None:
    """Before this process waits for others, which whoever trains in one process does not start."""
    from hone_contract.spec_file import load_run_spec
    from hone_trainer.unsloth_backend import import_unsloth

    if (spec := load_run_spec(options.spec)).backend == "unsloth":
        import_unsloth(spec)


def _processes_here(options: argparse.Namespace, machines: int) -> int:
    """How many are to train on this machine, which is one of several."""
    from hone_contract.spec_file import load_run_spec
    from hone_trainer.launch import check_alone, choose
    from hone_trainer.node import processes_here

    if (backend := load_run_spec(options.spec).backend) == "unsloth":
        check_alone(backend, machines)
    import torch

    return choose(options.processes or processes_here(), torch.cuda.device_count())


def _plan_run(options: argparse.Namespace, store: Store) -> tuple["Plan", int]:
    """The run, and how many processes are to train it: none if it was trained before."""
    from hone_contract.spec_file import load_run_spec
    from hone_trainer.launch import check_alone, reporter
    from hone_trainer.plan import make_plan
    from hone_trainer.reporting.exporter import metrics_address
    from hone_trainer.reporting.run_files import tell_succeeded
    from hone_trainer.reporting.trackers import check_trackers
    from hone_trainer.unsloth_backend import import_unsloth

    if options.run_id_file is not None:
        # Whoever waits for the file must not take another run's id from it.
        options.run_id_file.unlink(missing_ok=True)
    metrics_address(options.metrics_port, options.metrics_host)
    # Before the data is prepared and the base fetched, which may take long.
    spec = load_run_spec(options.spec)
    check_trackers(spec.training.report_to)
    if spec.backend == "unsloth":
        check_alone("unsloth", options.processes)
        # Before the transformers with which the plan counts tokens.
        import_unsloth(spec)
    plan = make_plan(options.spec, options.data, store, reporter())
    if plan.target(store).exists():
        open_artifact(plan.target(store), plan.kind)
        tell_succeeded(store.run(plan.run_id))
        Reporter("trainer").tell(
            "already_trained", f"run {plan.run_id} was trained before", run_id=plan.run_id
        )
        return plan, 0
    from hone_trainer.launch import is_launched, world, world_here
    from hone_trainer.sizing.estimate import check_fits
    from hone_trainer.sizing.machine import shared_by, this_device

    device = this_device()
    processes = world() if is_launched() else _processes(options, plan)
    check_fits(plan, shared_by(device, processes, world_here() if is_launched() else processes))
    return plan, processes


def _processes(options: argparse.Namespace, plan: "Plan") -> int:
    """How many are to train the run on this machine."""
    import torch

    from hone_trainer.launch import choose

    return 1 if plan.spec.backend == "unsloth" else choose(options.processes, torch.cuda.device_count())


def _evaluate(options: argparse.Namespace, store: Store) -> None:
    from hone_trainer.answering.evaluation_data import evaluation_data, spec_of
    from hone_trainer.answering.lookup import find_merged, find_run

    run = find_run(store, options.run_id)
    merged = find_merged(store, run, options.model)
    spec = spec_of(run, store)
    _check_folder("--json", options.json)
    data = evaluation_data(run, spec, options.data, store, options.limit)
    from hone_trainer.answering.evaluate import as_json, as_table, evaluate

    evaluation = evaluate(
        run,
        spec,
        data,
        Reporter("trainer"),
        merged=merged,
        generation=options.generation,
        max_tokens=options.max_tokens,
    )
    if options.json is not None:
        told = as_json(evaluation, run, spec, data, merged)
        write_atomically(options.json, json.dumps(told, indent=2, ensure_ascii=False) + "\n")
    print(f"{run.run_id}: {len(data.records)} records of {data.dataset.manifest.id}")
    print(as_table(evaluation))


def _generate(options: argparse.Namespace, store: Store) -> None:
    from hone_trainer.answering.lookup import find
    from hone_trainer.answering.prompts import draw_record, one_prompt, read_prompts

    sampling, show = _check_generate(options), None
    found = find(store, options.model)
    if found.is_base and options.compare:
        raise BadConfiguration(f"--compare: {options.model!r} is a base itself; name a run, or models/NAME")
    sha256_of(found.artifact.path, CHAT_TEMPLATE)
    if options.random:
        drawn = draw_record(found, store, options.seed)
        records, show = [drawn.record], f"{drawn.record.source} (--seed {drawn.seed})"
    elif options.prompt is not None:
        records = [one_prompt(options.prompt, options.system)]
    else:
        records = read_prompts(options.questions, options.system)
    _check_folder("--output", options.output)
    from hone_trainer.answering.generate import generate_file, generate_here

    reporter = Reporter("trainer")
    if options.output is not None:
        generate_file(found, records, sampling, options.output, reporter, compare=options.compare)
    else:
        generate_here(found, records[0], sampling, reporter, compare=options.compare, show=show)


def _check_generate(options: argparse.Namespace) -> Sampling:
    """Raises BadConfiguration for options that do not fit each other."""
    if options.questions is None and options.prompt is None and not options.random:
        raise BadConfiguration(f"nothing to ask: give a file, --prompt or --random{_SEE_GENERATE}")
    if options.questions is not None and options.output is None:
        raise BadConfiguration(f"the following arguments are required: --output{_SEE_GENERATE}")
    if options.random and options.system is not None:
        raise BadConfiguration("--random draws a record with prompts of its own; leave --system out")
    return sampling_of(options)


def _check_folder(option: str, file: Path | None) -> None:
    """Before the work, not after it."""
    if file is not None and not file.parent.is_dir():
        raise BadConfiguration(f"{option}: there is no folder {file.parent}; make it first")


if __name__ == "__main__":
    main()
