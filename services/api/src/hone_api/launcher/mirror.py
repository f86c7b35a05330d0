"""What is there of one kind of object, kept up to date by a watch.

A watch goes on where it broke off. When the cluster no longer knows that place (410), everything is listed
anew. So what is here may be a moment old, and is never wrong for long; who must be sure asks the cluster.
"""

import threading
from collections.abc import Callable, Sequence

from hone_api.launcher.cluster import GONE, Cluster, NoAnswer, Object, Refused, Shut
from hone_contract.events import Reporter

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 30.0


class Mirror:
    """Of the objects that have the labels."""

    def __init__(
        self,
        cluster: Cluster,
        resource: str,
        labels: str,
        seen: Callable[[Sequence[Object]], None],
        reporter: Reporter,
    ) -> None:
        """`seen` is called with what is new, has changed or is gone: after a list, once with all of it."""
        self._cluster, self._resource, self._labels = cluster, resource, labels
        self._seen, self._reporter = seen, reporter
        self._objects: dict[str, Object] = {}
        self._listed = threading.Event()
        self._shut = Shut()
        self._thread = threading.Thread(target=self._live, name=resource.rpartition("/")[2], daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._shut.shut()
        self._thread.join(5)

    def wait(self, seconds: float) -> bool:
        """Until it was listed once."""
        return self._listed.wait(seconds)

    def get(self, name: str) -> Object | None:
        """Raises NoAnswer before the first list: what is not here may be there.

        Raises RuntimeError when what follows the cluster has ended by a mistake of ours.
        """
        return self._all().get(name)

    def every(self) -> list[Object]:
        """Raises NoAnswer like `get`."""
        return list(self._all().values())

    def labelled(self, label: str, value: str) -> list[Object]:
        """Raises NoAnswer like `get`."""
        return [each for each in self.every() if each["metadata"].get("labels", {}).get(label) == value]

    def _all(self) -> dict[str, Object]:
        if self._thread.ident is not None and not self._thread.is_alive() and not self._shut.asked.is_set():
            # Which ends the loop that asks, and the api with it: it would go by old news for ever.
            raise RuntimeError(f"the watch of {self._resource} has ended")
        if not self._listed.is_set():
            raise NoAnswer(f"what the cluster has of {self._resource.rpartition('/')[2]} is not known yet")
        return self._objects

    def _live(self) -> None:
        try:
            self._follow_on()
        finally:
            if not self._shut.asked.is_set():
                told = f"the watch of {self._resource} has ended by a mistake of ours"
                self._reporter.tell("watch_ended", told, level="error")

    def _follow_on(self) -> None:
        version, pause = "", _FIRST_PAUSE
        while not self._shut.asked.is_set():
            try:
                version = version or self._list()
                for event in self._cluster.watch(
                    self._resource, version, self._shut.opened, labels=self._labels
                ):
                    version = self._take(event)
                    pause = _FIRST_PAUSE
                # Something in between may end each watch at once.
                self._shut.asked.wait(_FIRST_PAUSE)
            except Refused as error:
                # A version that is too old, or whatever else: the list is always right.
                version = ""
                if error.status == GONE:
                    self._shut.asked.wait(_FIRST_PAUSE)
                else:
                    pause = self._rest(error, pause)
            except OSError as error:
                # No answer, or whoever saw the news could not look at the disk: it is told of it again.
                pause = self._rest(error, pause)

    def _rest(self, error: Exception, pause: float) -> float:
        """The next pause."""
        if not self._shut.asked.is_set():
            self._reporter.tell("watch_broken", f"{self._resource}: {error}", level="warning", pause=pause)
        self._shut.asked.wait(pause)
        return min(2 * pause, _LONGEST_PAUSE)

    def _list(self) -> str:
        listed = self._cluster.list(self._resource, labels=self._labels)
        before = self._objects
        # In one step: nobody sees half of it.
        self._objects = {each["metadata"]["name"]: each for each in listed["items"]}
        self._listed.set()
        self._seen([*(before | self._objects).values()])
        return str(listed["metadata"]["resourceVersion"])

    def _take(self, event: Object) -> str:
        """The version after it."""
        told = event["object"]
        name = told["metadata"].get("name")
        if event["type"] in ("ADDED", "MODIFIED"):
            self._objects[name] = told
            self._seen([told])
        elif event["type"] == "DELETED":
            self._objects.pop(name, None)
            self._seen([told])
        return str(told["metadata"]["resourceVersion"])
