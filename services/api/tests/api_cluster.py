"""A cluster's API for tests of the launcher, upon the drill's mock: objects, watches that break, refusals.

What a controller or a node does is said by the test, or by `api_node`, which runs what Jobs ask for.
"""

import asyncio
import copy
import json
import threading
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp.web
import kmock
import kubernetes_validate
import yaml
from kubernetes.client import Configuration
from kubernetes_validate.utils import latest_version
from mock_api import Api, serving
from mock_states import ended, pending, pulling, running

from hone_api.launcher.cluster import Cluster

Object = dict[str, Any]
NAMESPACE = "hone"
JOBS, PODS, EVENTS, TEMPLATES, SERVICES = "jobs", "pods", "events", "podtemplates", "services"
DEPLOYMENTS = "deployments"
K8S = Path(__file__).parents[3] / "k8s"
BASE = K8S / "base" / "api"
_VERBS = {
    "CREATE": "create",
    "DELETE": "delete",
    # Of which kmock knows no action.
    "PUT": "update",
    "FETCH": "get",
    "LIST": "list",
    "WATCH": "watch",
}
_GONE = {"code": 410, "reason": "Expired", "message": "too old resource version"}


class _Quiet:
    """Nothing happens by itself."""

    def tick(self, api: Api) -> None: ...

    def log(self, api: Api, pod: Object) -> str:
        raise NotImplementedError

    def run(self, api: Api, pod: Object, command: list[str]) -> str:
        raise NotImplementedError


class Mock(Api):
    """The server, whose objects a test changes as controllers and nodes do."""

    def __init__(self) -> None:
        super().__init__(_Quiet())
        self.kept: dict[tuple[str, str], Object] = {}
        self.logs: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []
        """Verb and resource of every request."""
        self.tokens: set[str] = set()
        self.watched: list[tuple[str, str]] = []
        """Resource and version from which each watch began."""
        self.failing: defaultdict[tuple[str, str], deque[tuple[int, str, dict[str, str]]]] = defaultdict(
            deque
        )
        """By verb and resource: status, message and headers of the next answers."""
        self._journal: list[tuple[int, str, str, Object]] = []
        self._version, self._oldest, self._broken, self._over = 100, 0, 0, False
        self._lock = threading.RLock()
        for name in ("check", "train", "merge", "import"):
            self.change(TEMPLATES, yaml.safe_load((BASE / f"{name}.yaml").read_text(encoding="utf-8")))

    # -- what a test does ---------------------------------------------------------------------------

    def change(self, resource: str, made: Object) -> None:
        """Put an object there, or another state of it."""
        with self._lock:
            key = (resource, made["metadata"]["name"])
            kind = "MODIFIED" if key in self.kept else "ADDED"
            made["metadata"].setdefault("uid", f"uid-{self._version}")
            self.kept[key] = made
            self._note(resource, kind, made)

    def remove_it(self, resource: str, name: str) -> None:
        with self._lock:
            gone = self.kept.pop((resource, name), None)
            if gone is not None:
                self._note(resource, "DELETED", gone)

    def every(self, resource: str) -> list[Object]:
        with self._lock:
            return [copy.deepcopy(each) for key, each in self.kept.items() if key[0] == resource]

    def job(self, name: str) -> Object:
        with self._lock:
            return copy.deepcopy(self.kept[JOBS, name])

    def bookmark(self) -> int:
        """Tells every watch how far it is."""
        with self._lock:
            for resource in (JOBS, PODS):
                self._note(resource, "BOOKMARK", {"metadata": {}})
            return self._version

    def break_watches(self, forget: bool = False) -> None:
        """`forget`: what was before is no longer known, so that going on is answered with 410."""
        with self._lock:
            self._broken += 1
            if forget:
                self._version += 1
                self._oldest = self._version

    def begin_pod(self, job_name: str, number: int = 1) -> Object:
        """As the Job's controller does."""
        job = self.job(job_name)
        template = job["spec"]["template"]
        pod: Object = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"{job_name}-p{number}",
                "namespace": NAMESPACE,
                "labels": template["metadata"]["labels"] | {"batch.kubernetes.io/job-name": job_name},
                "creationTimestamp": f"2026-01-01T00:00:{number:02}Z",
            },
            "spec": template["spec"],
        }
        pod["status"] = pending(pod)
        self.change(PODS, pod)
        return pod

    def set_pod(self, pod: Object, status: Object) -> None:
        self.change(PODS, {**pod, "status": status})

    def finish(self, job_name: str, reason: str = "") -> None:
        """The Job is complete, or has failed for a reason."""
        told = {"type": "Failed", "reason": reason, "message": reason} if reason else {"type": "Complete"}
        self.change(JOBS, self.job(job_name) | {"status": {"conditions": [{**told, "status": "True"}]}})

    def end(self, pod: Object, code: int, log: bytes = b"", said: str = "", **more: Any) -> None:
        """Its container has ended, and so has its Job."""
        name = pod["metadata"]["name"]
        self.logs[name] = log
        self.set_pod(pod, ended(pod, code, said) | more)
        job_name = pod["metadata"]["labels"]["batch.kubernetes.io/job-name"]
        if (JOBS, job_name) in self.kept:
            self.finish(job_name, "BackoffLimitExceeded" if code else "")

    def warn(self, about: str, reason: str, message: str) -> None:
        event: Object = {"metadata": {"name": f"{about}.{reason}"}, "involvedObject": {"name": about}}
        self.change(
            EVENTS,
            event
            | {
                "type": "Warning",
                "reason": reason,
                "message": message,
                "lastTimestamp": "2026-01-01T00:00:00Z",
            },
        )

    def refuse(self, verb: str, resource: str, status: int, message: str = "", **headers: str) -> None:
        """The next request of that kind."""
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        self.failing[verb, resource].append((status, message, told))

    # -- what the server does -----------------------------------------------------------------------

    async def _handle(self, request: kmock.Request) -> aiohttp.web.StreamResponse:
        assert request.resource is not None, request
        assert request.namespace == NAMESPACE, request
        resource = "/".join(filter(None, (request.resource.plural, request.subresource)))
        verb = _VERBS[request.action.value] if request.action is not None else _VERBS[request.method.value]
        self.asked.append((verb, resource))
        self.tokens.add(request._raw_request.headers.get("Authorization", ""))
        if self.failing[verb, resource]:
            status, message, headers = self.failing[verb, resource].popleft()
            return _refusal(status, message, headers)
        if verb == "watch":
            return await self._watch(request, resource)
        with self._lock:
            return self._answer(verb, resource, request)

    def _answer(self, verb: str, resource: str, request: kmock.Request) -> aiohttp.web.Response:
        if verb == "create":
            return self._create(resource, request.data)
        if verb == "list":
            found = [each for key, each in self.kept.items() if key[0] == resource]
            chosen = [_in_a_list(each) for each in found if _is_chosen(each, request.params)]
            listed = {"metadata": {"resourceVersion": str(self._version)}, "items": chosen}
            return aiohttp.web.json_response(listed)
        if resource == "pods/log":
            if request.name not in self.logs:
                return _refusal(404, f'pods "{request.name}" not found')
            return aiohttp.web.Response(body=self.logs[request.name])
        key = (resource, str(request.name))
        if key not in self.kept:
            return _refusal(404, f'{resource} "{request.name}" not found')
        if verb == "update":
            return self._update(key, request.data)
        if verb == "delete":
            if resource == JOBS:
                self._delete(str(request.name), request.data["propagationPolicy"])
            else:
                self.remove_it(*key)
            return aiohttp.web.json_response({"kind": "Status", "status": "Success"})
        return aiohttp.web.json_response(self.kept[key])

    def _create(self, resource: str, made: Object) -> aiohttp.web.Response:
        try:
            kubernetes_validate.validate(made, latest_version(), strict=True)
        except kubernetes_validate.ValidationError as error:
            return _refusal(422, str(error))
        name = made["metadata"]["name"]
        if (resource, name) in self.kept:
            return _refusal(409, f'{resource} "{name}" already exists')
        made["metadata"]["namespace"] = NAMESPACE
        self.change(resource, made)
        return aiohttp.web.json_response(made, status=201)

    def _update(self, key: tuple[str, str], made: Object) -> aiohttp.web.Response:
        kubernetes_validate.validate(made, latest_version(), strict=True)
        if made["metadata"]["resourceVersion"] != self.kept[key]["metadata"]["resourceVersion"]:
            return _refusal(409, "the object has been modified")
        self.change(key[0], made)
        return aiohttp.web.json_response(made)

    def _delete(self, name: str, propagation: str) -> None:
        """Of a Job. Its pods are told to end; with `Foreground` it stays until they have."""
        pods = [each for each in self.every(PODS) if _job_of(each) == name]
        for pod in pods:
            if pod["status"]["phase"] in ("Succeeded", "Failed"):
                self.remove_it(PODS, pod["metadata"]["name"])
            else:
                self.change(PODS, _going(pod))
        if propagation == "Foreground" and any(_job_of(each) == name for each in self.every(PODS)):
            self.change(JOBS, _going(self.job(name)))
        else:
            self.remove_it(JOBS, name)

    async def _watch(self, request: kmock.Request, resource: str) -> aiohttp.web.StreamResponse:
        response = aiohttp.web.StreamResponse()
        await response.prepare(request._raw_request)
        version, broken = int(request.params["resourceVersion"]), self._broken
        self.watched.append((resource, request.params["resourceVersion"]))
        if version < self._oldest:
            await response.write(json.dumps({"type": "ERROR", "object": _GONE}).encode() + b"\n")
            return response
        while broken == self._broken and not self._over:
            with self._lock:
                news = [each for each in self._journal if each[0] > version and each[1] == resource]
            for number, _, kind, told in news:
                version = number
                if kind != "BOOKMARK" and not _is_chosen(told, request.params):
                    continue
                await response.write(json.dumps({"type": kind, "object": told}).encode() + b"\n")
            await asyncio.sleep(0.005)
        return response

    def _note(self, resource: str, kind: str, told: Object) -> None:
        self._version += 1
        told["metadata"]["resourceVersion"] = str(self._version)
        self._journal.append((self._version, resource, kind, copy.deepcopy(told)))


@contextmanager
def mock_cluster() -> Iterator[tuple[Mock, str]]:
    """And its address."""
    mock = Mock()
    with serving(mock) as url:
        yield mock, url
        mock._over = True


def rights_in(file: Path) -> set[tuple[str, str]]:
    """Of the Role in it, by verb and resource."""
    return {
        (verb, resource)
        for each in yaml.safe_load_all(file.read_text(encoding="utf-8"))
        if each["kind"] == "Role"
        for rule in each["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def connected(url: str) -> Cluster:
    return Cluster(Configuration(host=url), NAMESPACE)


def write_kubeconfig(file: Path, url: str) -> Path:
    """By which an api finds it."""
    told = {
        "current-context": "mock",
        "contexts": [{"name": "mock", "context": {"cluster": "mock", "user": "me", "namespace": NAMESPACE}}],
        "clusters": [{"name": "mock", "cluster": {"server": url}}],
        "users": [{"name": "me", "user": {"token": "of-the-mock"}}],
    }
    file.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", **told}), encoding="utf-8")
    return file


def unschedulable(pod: Object) -> Object:
    return pending(pod, "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.")


def disrupted(reason: str) -> Object:
    """A condition of a pod that somebody takes away."""
    told = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "for another"}
    return {"conditions": [told]}


def _job_of(pod: Object) -> str:
    return str(pod["metadata"]["labels"].get("batch.kubernetes.io/job-name"))


def _in_a_list(each: Object) -> Object:
    """There Kubernetes leaves out what is the same for all of them."""
    return {name: value for name, value in each.items() if name not in ("apiVersion", "kind")}


def _going(each: Object) -> Object:
    return {**each, "metadata": {**each["metadata"], "deletionTimestamp": "2026-01-01T00:01:00Z"}}


def _is_chosen(each: Object, params: Any) -> bool:
    labels, fields = params.get("labelSelector", ""), params.get("fieldSelector", "")
    has = each["metadata"].get("labels", {})
    wanted = [pair.partition("=") for pair in labels.split(",") if pair]
    if not all(has.get(name) == value if equal else name in has for name, equal, value in wanted):
        return False
    about = {"involvedObject.name": each.get("involvedObject", {}).get("name"), "type": each.get("type")}
    return all(about[name] == value for name, _, value in (f.partition("=") for f in fields.split(",") if f))


def _refusal(status: int, message: str, headers: dict[str, str] | None = None) -> aiohttp.web.Response:
    reason = {403: "Forbidden", 404: "NotFound", 409: "AlreadyExists", 422: "Invalid"}.get(status, "")
    told = {"kind": "Status", "status": "Failure", "code": status, "reason": reason, "message": message}
    return aiohttp.web.json_response(told, status=status, headers=headers)


__all__ = ["ended", "pending", "pulling", "running"]
