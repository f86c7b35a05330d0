"""Stages as Jobs of a cluster, which go on whatever becomes of the api.

A stage's Job has a name that is made of the stage's own, so whoever begins it again finds it. What is known
of Jobs and pods comes from a watch of each; before a stage is said to have ended, the cluster is asked.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from hone_api.launcher.cluster import (
    CONFLICT,
    EVENTS,
    JOBS,
    PODS,
    TEMPLATES,
    Cluster,
    NoAnswer,
    Object,
    Refused,
    message_of,
)
from hone_api.launcher.manifest import NAME, OURS, STAGE, job_name, make_job, template_name
from hone_api.launcher.marks import Marks
from hone_api.launcher.mirror import Mirror
from hone_api.launcher.stages import Command, State, folder_of, is_name, names_in
from hone_api.launcher.verdict import (
    CONTAINER,
    exit_of,
    has_no_pod_yet,
    is_finished,
    is_going,
    is_quota,
    last_words,
    live,
    newest,
    waits_for,
)
from hone_contract.artifact import write_atomically
from hone_contract.errors import BadConfiguration
from hone_contract.events import Reporter

_LOG_LINES, _LOG_BYTES = 10_000, 2**20
_FIRST_LIST_SECONDS = 30.0
_AGAIN_SECONDS = 10.0
"""Between two tries of what the cluster has refused, and two looks at events."""
_LOG_SECONDS = 60.0
"""How long a log is asked for whose node does not answer."""


class KubernetesLauncher:
    """Implements `Launcher`. Its mirrors are threads: `start`, and `close` at the end."""

    def __init__(
        self,
        cluster: Cluster,
        data: Path,
        reporter: Reporter,
        changed: Callable[[], None] = lambda: None,
        again_seconds: float = _AGAIN_SECONDS,
    ) -> None:
        """`changed` is called when something is new in the cluster."""
        self._cluster, self._data, self._reporter, self._changed = cluster, data.resolve(), reporter, changed
        self._root = self._data / "stages"
        # Servers of models are ours too, and none of its concern.
        stages = f"{OURS},{STAGE}"
        self._jobs = Mirror(cluster, JOBS, stages, self._seen, reporter)
        self._pods = Mirror(cluster, PODS, stages, lambda _: changed(), reporter)
        self._again_seconds = again_seconds
        # Told or asked a while ago; who forgets these tells or asks once more.
        self._refusals: dict[str, tuple[float, str]] = {}
        self._warnings: dict[str, tuple[float, str]] = {}
        self._logs_since: dict[str, float] = {}
        self._told: dict[str, str] = {}
        # Jobs' uids, since the mirror may show them a moment longer.
        self._forgotten: set[str] = set()

    def start(self, seconds: float = _FIRST_LIST_SECONDS) -> None:
        """Waits a while for the cluster's first answer; without one, stages are looked at when it comes."""
        for each in (self._jobs, self._pods):
            each.start()
        late = time.monotonic() + seconds
        for each in (self._jobs, self._pods):
            each.wait(max(0.0, late - time.monotonic()))

    def close(self) -> None:
        for each in (self._jobs, self._pods):
            each.close()

    # -- what the loop asks -------------------------------------------------------------------------

    def begin(self, name: str, command: Command) -> None:
        """Does nothing, for a while, after the cluster has refused it; `state` says why it did.

        Raises NoAnswer.
        """
        marks = self._marks(name)
        if marks.is_begun or marks.is_stopped or marks.exit is not None or self._was_just_refused(name):
            return
        try:
            self._create(name, command)
        except (Refused, BadConfiguration) as error:
            self._refuse(name, error)
            return
        self._refusals.pop(name, None)
        marks.mark_begun()

    def state(self, name: str) -> State:
        """Raises NoAnswer, and Refused where our rights do not suffice."""
        marks = self._marks(name)
        if (ended := marks.exit) is not None:
            return State("ended", ended.code, ended.note)
        job = self._job(name)
        if job is None:
            if not marks.is_begun:
                return State("absent", note=self._refusals.get(name, (0.0, ""))[1])
            # It may be so new that the mirror lacks it.
            job = self._cluster.get(JOBS, job_name(name))
        if job is not None and not marks.is_begun:
            marks.mark_begun()
        pods = self._pods.labelled(STAGE, job_name(name))
        if job is not None and not is_finished(job):
            note = waits_for(job, pods) or self._warning(job, pods)
            found = State("running", note=note)
            self._tell(name, found)
            return found
        return self._end(name, marks, job)

    def stop(self, name: str) -> None:
        """Its pod gets SIGTERM and the time that its template says; its Job is there until it has ended.

        Not by `suspend`, which a queue would take back. Raises NoAnswer.
        """
        marks = self._marks(name)
        marks.mark_stopped()
        job = self._job(name)
        if job is not None and is_going(job):
            return
        if job is not None:
            self._keep_log_so_far(marks, name)
        self._cluster.delete(JOBS, job_name(name), "Foreground")

    def output(self, name: str) -> Path:
        """The end of what it wrote, once it has ended."""
        return self._marks(name).output

    def forget(self, name: str) -> None:
        """Raises RuntimeError for a stage that runs, and NoAnswer."""
        marks = self._marks(name)
        if self.state(name).state == "running":
            raise RuntimeError(f"stage {name} runs; stop it, and forget it when it has ended")
        if (job := self._job(name)) is not None:
            shown = {each["metadata"]["uid"] for each in self._jobs.every()}
            self._forgotten = self._forgotten & shown | {job["metadata"]["uid"]}
        self._cluster.delete(JOBS, job_name(name), "Background")
        marks.forget()
        self._refusals.pop(name, None)
        self._warnings.pop(job_name(name), None)
        self._logs_since.pop(name, None)
        self._told.pop(name, None)

    def names(self, job: str) -> list[str]:
        return names_in(self._root, job)

    # -- beginning ----------------------------------------------------------------------------------

    def _create(self, name: str, command: Command) -> None:
        template = self._cluster.get(TEMPLATES, template_name(name))
        if template is None:
            raise BadConfiguration(
                f"there is no PodTemplate {template_name(name)} in the namespace {self._cluster.namespace}"
            )
        for folder in command.writes:
            folder.mkdir(parents=True, exist_ok=True)
        try:
            self._cluster.create(JOBS, make_job(name, command, template, self._data))
        except Refused as error:
            if error.status != CONFLICT:
                raise
            self._adopt(name)

    def _adopt(self, name: str) -> None:
        """Whoever began it was killed before it could write that down."""
        found = self._cluster.get(JOBS, job_name(name))
        if found is None or is_going(found):
            raise NoAnswer(f"Job {job_name(name)} is being deleted")
        if found["metadata"].get("annotations", {}).get(NAME) != name:
            raise BadConfiguration(f"Job {job_name(name)} is there, and none of ours; delete it")

    def _job(self, name: str) -> Object | None:
        """As the mirror has it."""
        job = self._jobs.get(job_name(name))
        return job if job is not None and job["metadata"]["uid"] not in self._forgotten else None

    def _was_just_refused(self, name: str) -> bool:
        return time.monotonic() < self._refusals.get(name, (0.0, ""))[0]

    def _refuse(self, name: str, error: Refused | BadConfiguration) -> None:
        message = message_of(error)
        told = "Waits for its quota" if is_quota(message) else "The cluster does not take its Job"
        self._refusals[name] = (time.monotonic() + self._again_seconds, f"{told}: {message}")
        self._reporter.tell("stage_refused", f"{name}: {error}", level="warning", stage=name)

    def _seen(self, jobs: Sequence[Object]) -> None:
        """One may come only after it was stopped: its creation was on its way when we gave it up."""
        for job in jobs:
            name = job["metadata"].get("annotations", {}).get(NAME, "")
            if is_name(name) and self._marks(name).is_stopped and not is_going(job):
                if not is_finished(job):
                    self._cluster.delete(JOBS, job["metadata"]["name"], "Foreground")
        self._changed()

    # -- ending -------------------------------------------------------------------------------------

    def _end(self, name: str, marks: Marks, job: Object | None) -> State:
        """Of a stage whose Job is finished or gone. It runs for as long as a pod of it may do something."""
        pods = self._pods_of(name)
        if live(pods):
            told = waits_for(job, pods) if job is not None else "Its Job was deleted: its pod is ending"
            return State("running", note=told)
        ended, pod = exit_of(job, pods), newest(pods)
        if pod is not None and not self._keep_log(marks, name, pod):
            return State("running")
        marks.mark_ended(ended.code, ended.note)
        return State("ended", ended.code, ended.note)

    def _pods_of(self, name: str) -> list[Object]:
        """As they are now: with a pod too few, a stage would seem lost, or be begun twice."""
        found: list[Object] = self._cluster.list(PODS, labels=f"{OURS},{STAGE}={job_name(name)}")["items"]
        return found

    def _keep_log(self, marks: Marks, name: str, pod: Object) -> bool:
        """False: not yet. Without an answer of its node, the last words that came with its state must do."""
        since = self._logs_since.setdefault(name, time.monotonic())
        try:
            self._write_log(marks, pod)
        except NoAnswer:
            if time.monotonic() < since + _LOG_SECONDS:
                return False
        except Refused as error:
            self._reporter.tell("log_refused", f"{name}: {error}", level="warning", stage=name)
        if not marks.output.exists():
            write_atomically(marks.output, last_words(pod))
        self._logs_since.pop(name, None)
        return True

    def _keep_log_so_far(self, marks: Marks, name: str) -> None:
        """Of a stage that is going to be stopped: its pod goes, and its log with it."""
        pod = newest(self._pods.labelled(STAGE, job_name(name)))
        if pod is not None:
            try:
                self._write_log(marks, pod)
            except (OSError, Refused) as error:
                # Also of a full disk: it is to end whatever becomes of its log.
                self._reporter.tell("log_refused", f"{name}: {error}", level="info", stage=name)

    def _write_log(self, marks: Marks, pod: Object) -> None:
        """All of it or nothing, and not more than its end."""
        kept: deque[bytes] = deque()
        size = 0
        for piece in self._cluster.log(pod["metadata"]["name"], CONTAINER, _LOG_LINES):
            kept.append(piece)
            size += len(piece)
            while size - len(kept[0]) > _LOG_BYTES:
                size -= len(kept.popleft())
        write_atomically(marks.output, b"".join(kept).decode("utf-8", "replace"))

    # -- news ---------------------------------------------------------------------------------------

    def _warning(self, job: Object, pods: Sequence[Object]) -> str:
        """What the cluster's own events say of a stage that has no container yet, looked at now and then."""
        if not has_no_pod_yet(job, pods):
            return ""
        name = job["metadata"]["name"]
        when, told = self._warnings.get(name, (time.monotonic() + self._again_seconds / 5, ""))
        if time.monotonic() >= when:
            pod = newest(live(pods))
            told = self._newest_event(pod if pod is not None else job)
            when = time.monotonic() + self._again_seconds
        self._warnings[name] = (when, told)
        return told

    def _tell(self, name: str, state: State) -> None:
        """The operator, once for each thing: what waits may belong to no job that has events."""
        about = state.waits_for
        if about and about != self._told.get(name):
            self._told[name] = about
            self._reporter.tell("stage_waits", f"{name}: {state.note}", level="warning", stage=name)

    def _newest_event(self, about: Object) -> str:
        fields = f"involvedObject.name={about['metadata']['name']},type=Warning"
        events = self._cluster.list(EVENTS, fields=fields)["items"]
        if not events:
            return ""
        event = max(events, key=lambda each: each.get("lastTimestamp") or each.get("eventTime") or "")
        if is_quota(event.get("message", "")):
            return f"Waits for its quota: {event['message']}"
        return f"Cannot begin yet: {event.get('reason', '')}: {event.get('message', '')}"

    def _marks(self, name: str) -> Marks:
        """Raises ValueError."""
        return Marks(folder_of(self._root, name))
