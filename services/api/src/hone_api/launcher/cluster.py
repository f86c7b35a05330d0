"""A cluster's API, as far as the launcher needs it: objects as Kubernetes tells them, two kinds of failure.

The official client knows where the cluster is, who we are there, and how a token is renewed. Its types are
left out: they cost memory and seconds, and refuse what a newer cluster adds.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import urllib3
from kubernetes.client import ApiClient, ApiException, Configuration
from kubernetes.client.rest import RESTResponse
from kubernetes.config import (
    ConfigException,
    list_kube_config_contexts,
    load_incluster_config,
    load_kube_config,
)

from hone_contract.errors import BadConfiguration, HoneError

Object = dict[str, Any]

JOBS, PODS = "apis/batch/v1/namespaces/{}/jobs", "api/v1/namespaces/{}/pods"
TEMPLATES, EVENTS = "api/v1/namespaces/{}/podtemplates", "api/v1/namespaces/{}/events"
SERVICES, DEPLOYMENTS = "api/v1/namespaces/{}/services", "apis/apps/v1/namespaces/{}/deployments"

_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_CONNECT_SECONDS, _READ_SECONDS = 5.0, 20.0
_WATCH_SECONDS = 240
"""After which the cluster ends a watch by itself."""
_SILENT_SECONDS = 300.0
"""After which a watch is given up that was not ended: its connection is gone, and nobody said so."""
_PAUSE_SECONDS, _LONGEST_PAUSE = 1.0, 60.0
GONE, NOT_FOUND, CONFLICT, FORBIDDEN = 410, 404, 409, 403


class NoAnswer(OSError):
    """The cluster cannot be asked now; the same may be asked again later."""


class Refused(HoneError):
    """The cluster has answered that it will not."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"the cluster's API answers {status} {reason}: {message}")
        self.status, self.reason, self.message = status, reason, message


def message_of(error: Exception) -> str:
    """What the cluster itself has said, where it has."""
    return error.message if isinstance(error, Refused) else str(error)


class Cluster:
    """One namespace of it; `home` is the one in which we are ourselves, where names need no more."""

    def __init__(self, configuration: Configuration, namespace: str, home: str | None = None) -> None:
        # The client's own would sleep in here for as long as a busy cluster says.
        configuration.retries = False
        # Three watches, the loop, and a log.
        configuration.connection_pool_maxsize = 5
        self._client = ApiClient(configuration)
        self._not_before = 0.0
        self.namespace = namespace
        self.home = home or namespace

    def host_of(self, service: str) -> str:
        """The name by which a Service of the namespace is reached from here."""
        return service if self.namespace == self.home else f"{service}.{self.namespace}.svc"

    def get(self, resource: str, name: str) -> Object | None:
        """None: there is none of that name."""
        try:
            return self._object("GET", f"{resource}/{name}")
        except Refused as error:
            if error.status == NOT_FOUND:
                return None
            raise

    def list(self, resource: str, **selected: str) -> Object:
        """The list itself: its `metadata.resourceVersion` is where a watch goes on."""
        return self._object("GET", resource, query=_query(selected))

    def create(self, resource: str, made: Object) -> None:
        self._object("POST", resource, body=made)

    def replace(self, resource: str, made: Object) -> None:
        """Raises Refused (409) if it has changed since its `metadata.resourceVersion`."""
        self._object("PUT", f"{resource}/{made['metadata']['name']}", body=made)

    def delete(self, resource: str, name: str, propagation: str) -> None:
        """Does nothing where there is none."""
        try:
            self._object("DELETE", f"{resource}/{name}", body={"propagationPolicy": propagation})
        except Refused as error:
            if error.status != NOT_FOUND:
                raise

    def log(self, pod: str, container: str, lines: int) -> Iterator[bytes]:
        """The end of what a container has written, piece by piece."""
        query = {"container": container, "tailLines": lines}
        # It comes from the pod's node: if that is busy or away, the cluster is not.
        with self._answer("GET", f"{PODS}/{pod}/log", query, may_pause=False) as answer:
            yield from answer.response.stream(2**16)

    def watch(
        self, resource: str, version: str, opened: Callable[[RESTResponse], None], **selected: str
    ) -> Iterator[Object]:
        """What happens after `version`, until the cluster ends the watch; `opened` gets what can be shut."""
        query = _query(selected) | {
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": _WATCH_SECONDS,
        }
        with self._answer("GET", resource, query, read_seconds=_SILENT_SECONDS) as answer:
            opened(answer)
            rest = b""
            for piece in answer.response.stream(2**16):
                *lines, rest = (rest + piece).split(b"\n")
                yield from (_event(line) for line in lines if line)

    def _object(
        self, method: str, path: str, query: Mapping[str, Any] | None = None, body: Object | None = None
    ) -> Object:
        with self._answer(method, path, query, body) as answer:
            told: Object = json.loads(answer.response.data)
            return told

    @contextmanager
    def _answer(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        body: Object | None = None,
        read_seconds: float = _READ_SECONDS,
        may_pause: bool = True,
    ) -> Iterator[RESTResponse]:
        """Raises NoAnswer and Refused, while the answer is read too.

        `may_pause`: whether an answer that asks for a pause is of the cluster itself.
        """
        if time.monotonic() < self._not_before:
            raise NoAnswer("the cluster's API has asked for a pause")
        asked = self._client.param_serialize(
            method,
            f"/{path.format(self.namespace)}",
            query_params=list((query or {}).items()),
            header_params={"Accept": "application/json", "Content-Type": "application/json"},
            body=body,
            auth_settings=["BearerToken"],
        )
        try:
            answer = self._client.call_api(*asked, _request_timeout=(_CONNECT_SECONDS, read_seconds))
            try:
                self._look_at(answer, may_pause)
                yield answer
            finally:
                answer.response.close()
                answer.response.release_conn()
        except (urllib3.exceptions.HTTPError, ApiException, json.JSONDecodeError, OSError) as error:
            if isinstance(error, NoAnswer):
                raise
            raise NoAnswer(f"the cluster's API cannot be reached: {type(error).__name__}: {error}") from None

    def _look_at(self, answer: RESTResponse, may_pause: bool) -> None:
        if answer.status < 400:
            return
        told = _status(answer.response.data)
        if answer.status == 429 or answer.status >= 500:
            wait = answer.response.headers.get("Retry-After")
            if may_pause and (answer.status == 429 or wait):
                self._not_before = time.monotonic() + _pause(wait)
            raise NoAnswer(f"the cluster's API answers {answer.status}: {told.get('message', '')}")
        raise Refused(answer.status, told.get("reason", ""), told.get("message", ""))


def connect(namespace: str | None) -> Cluster:
    """To the cluster that this pod is in, or to that of KUBECONFIG. Raises BadConfiguration."""
    configuration = Configuration()
    here = "default"
    try:
        if os.environ.get("KUBERNETES_SERVICE_HOST") and not os.environ.get("KUBECONFIG"):
            load_incluster_config(configuration)
            here = _NAMESPACE.read_text(encoding="utf-8").strip()
        else:
            load_kube_config(client_configuration=configuration)
            _, context = list_kube_config_contexts()
            here = context["context"].get("namespace") or here
    except (ConfigException, OSError) as error:
        raise BadConfiguration(
            f"no cluster is known here: {error}; run it in a pod with a service account, or set KUBECONFIG"
        ) from None
    return Cluster(configuration, namespace or here, here)


class Shut:
    """Ends a watch from another thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answer: RESTResponse | None = None
        self.asked = threading.Event()

    def opened(self, answer: RESTResponse) -> None:
        with self._lock:
            self._answer = answer
        if self.asked.is_set():
            self._end(answer)

    def shut(self) -> None:
        self.asked.set()
        with self._lock:
            if self._answer is not None:
                self._end(self._answer)

    def _end(self, answer: RESTResponse) -> None:
        # Whoever reads it finds its end; to close it would wait for the reader. RuntimeError: it has ended.
        with suppress(RuntimeError, ValueError, OSError):
            answer.response.shutdown()


def _query(selected: Mapping[str, str]) -> dict[str, Any]:
    names = {"labels": "labelSelector", "fields": "fieldSelector"}
    return {names[name]: value for name, value in selected.items()}


def _event(line: bytes) -> Object:
    """Raises Refused for what a watch is ended with."""
    event: Object = json.loads(line)
    if event["type"] == "ERROR":
        told = event["object"]
        raise Refused(told.get("code", 0), told.get("reason", ""), told.get("message", ""))
    return event


def _status(body: bytes) -> Object:
    """What the API says of a failure; something in front of it may say it in other words."""
    try:
        told = json.loads(body)
    except ValueError:
        told = None
    return told if isinstance(told, dict) else {"message": body[:200].decode("utf-8", "replace")}


def _pause(said: str | None) -> float:
    seconds = float(said) if said and said.isdecimal() else _PAUSE_SECONDS
    return min(seconds, _LONGEST_PAUSE)
