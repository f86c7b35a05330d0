"""A node of the mock's cluster, and the controller of its Jobs: pods are processes of this machine.

Only what an api could notice: a Job has one pod, which gets SIGTERM when somebody deletes the Job, and its
log goes with it. Every process has a group of its own, and none outlives the node.
"""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from api_cluster import JOBS, PODS, Mock, Object, ended, running

_EVERY = 0.02


class Node:
    """Runs what is asked for, as soon as it is."""

    def __init__(self, mock: Mock, folder: Path) -> None:
        self.mock, self.folder = mock, folder
        folder.mkdir(exist_ok=True)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.begun: list[str] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._live, name="node", daemon=True)

    def _live(self) -> None:
        while not self._over.is_set():
            for job in self.mock.every(JOBS):
                self._begin(job)
            for pod in self.mock.every(PODS):
                self._look_at(pod)
            time.sleep(_EVERY)

    def _begin(self, job: Object) -> None:
        name = job["metadata"]["name"]
        if name in self.begun or job["spec"].get("suspend") or "deletionTimestamp" in job["metadata"]:
            return
        self.begun.append(name)
        pod = self.mock.begin_pod(name)
        (stage,) = pod["spec"]["containers"]
        said = {each["name"]: each["value"].replace("$$", "$") for each in stage["env"] if "value" in each}
        with (self.folder / pod["metadata"]["name"]).open("wb") as log:
            self.processes[pod["metadata"]["name"]] = subprocess.Popen(
                [word.replace("$$", "$") for word in stage["command"]],
                env=os.environ | said,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self.mock.set_pod(pod, running(pod))

    def _look_at(self, pod: Object) -> None:
        name = pod["metadata"]["name"]
        process = self.processes.get(name)
        if process is None:
            return
        log = (self.folder / name).read_bytes()
        if process.poll() is None:
            self.mock.logs[name] = log
            if "deletionTimestamp" in pod["metadata"]:
                process.send_signal(signal.SIGTERM)
            return
        del self.processes[name]
        code = process.returncode if process.returncode >= 0 else 128 - process.returncode
        job_name = pod["metadata"]["labels"]["hone.dev/stage"]
        if "deletionTimestamp" in pod["metadata"]:
            self.mock.set_pod(pod, ended(pod, code, ""))
            self.mock.remove_it(PODS, name)
            self.mock.logs.pop(name, None)
            self.mock.remove_it(JOBS, job_name)
        else:
            self.mock.end(pod, code, log)

    def end(self) -> None:
        self._over.set()
        self._thread.join(10)
        for process in self.processes.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def node_of(mock: Mock, folder: Path) -> Iterator[Node]:
    node = Node(mock, folder)
    node._thread.start()
    try:
        yield node
    finally:
        node.end()
