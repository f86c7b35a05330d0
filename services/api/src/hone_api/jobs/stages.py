"""What a job's stages run, and what the end of one means."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hone_api.database.tables import Checkpoint, Job
from hone_api.jobs.workspace import Workspace
from hone_api.launcher.stages import Command, State
from hone_api.settings import Settings
from hone_contract.errors import BadConfiguration, BadInput, RetryableFailure

TRAIN, MERGE, DEPLOY, END = "train", "merge", "deploy", "end"
_TAIL = 64 * 1024
_SHOWN = 2000


@dataclass(frozen=True)
class Failure:
    """Why a stage ended without its result."""

    code: str
    message: str
    param: str | None = None
    may_pass: bool = False
    """Whether the same command may succeed when it is begun again."""
    output: str = ""
    """The end of what the command wrote, where it said nothing for people: for the operator's log alone."""


def stage_name(job: Job) -> str:
    """By which a launcher knows it. Every attempt has its own, so an old end is never taken for a new one."""
    return f"{job.id}/{job.attempt}-{job.stage}"


def import_name(job: Job, checkpoint: Checkpoint) -> str:
    """Of a stage that runs beside the job's own, and after it."""
    return f"{job.id}/step-{checkpoint.step}-{checkpoint.attempt}-import"


def train_command(
    settings: Settings, workspace: Workspace, gpu: str | None, trackers: dict[str, str]
) -> Command:
    """`gpu` is what CUDA_VISIBLE_DEVICES is to be. None: there are no GPUs to choose from.

    `trackers` is the environment of those to whom the run reports.
    """
    begins = settings.command("train")
    chosen = {"CUDA_VISIBLE_DEVICES": gpu} if gpu is not None else {}
    command = _on_store(
        settings,
        [*begins, str(workspace.spec), "--run-id-file", str(workspace.run_id_file)],
        chosen | trackers,
    )
    # The examples are hard links to files that others may have too: no stage may change them.
    return replace(command, reads=[workspace.folder], writes=[workspace.run_id_file.parent])


def import_command(settings: Settings, checkpoint: Path, base: str, name: str) -> Command:
    """Makes an adapter with probes of a checkpoint, so that a server can prove it."""
    begins = settings.command("import")
    return _on_store(settings, [*begins, str(checkpoint), "--base", base, "--name", name])


def merge_command(settings: Settings, run_id: str, name: str) -> Command:
    begins = settings.command("merge")
    return _on_store(settings, [*begins, run_id, "--name", name])


def failure_of(state: State, output: Path, stage: str) -> Failure | None:
    """None: it did what it should. The message has all that the command said, paths too."""
    if state.code == 0:
        return None
    written = _end_of(output)
    told = _last_error(written)
    if state.code is None:
        why = f": {state.note}" if state.note else ""
        return Failure(
            "server_error", f"The process was lost, with its machine or by force{why}", may_pass=True
        )
    # Merger and importer read nothing that the client sent.
    if state.code == BadInput.exit_code and stage == TRAIN:
        return Failure(
            "invalid_training_file",
            f"The job failed due to an invalid training file. {told}",
            "training_file",
        )
    if state.code == BadConfiguration.exit_code:
        return Failure("invalid_configuration", told)
    # From 128 on it was ended by a signal: killed for memory, or with its machine.
    may_pass = state.code == RetryableFailure.exit_code or state.code >= 128
    if told:
        return Failure("server_error", told, may_pass=may_pass)
    why = f": {state.note}" if state.note else ""
    return Failure(
        "server_error",
        f"The {stage} ended with {state.code}{why}",
        may_pass=may_pass,
        output=written[-_SHOWN:],
    )


def _on_store(settings: Settings, arguments: Sequence[str], more: dict[str, str] | None = None) -> Command:
    return Command(arguments, {"HONE_STORE": str(settings.store.resolve()), **(more or {})})


def _end_of(output: Path) -> str:
    try:
        with output.open("rb") as file:
            file.seek(max(0, output.stat().st_size - _TAIL))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def _last_error(text: str) -> str:
    """What the command said for people: the line that begins with `error: `, and those indented below it."""
    found = re.findall(r"^error: (.*(?:\n {7}.*)*)", text, flags=re.MULTILINE)
    return re.sub(r"\s+", " ", found[-1])[:_SHOWN] if found else ""
