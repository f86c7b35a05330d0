"""As much of a Kubernetes API server as kubectl needs for the drill, upon kmock.

kmock keeps objects, finds them by name, and tells of kinds. Here is what it does not know: namespaces as
objects, selectors, lists with a kind, what a server adds to an object, the check of fields, logs and exec.
"""

import asyncio
import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import aiohttp.web
import kmock
import kubernetes_validate
from kubectl import Object
from kubernetes_validate.utils import latest_version

# By resource, as discovery tells them: kind, whether in a namespace.
KINDS = {
    "v1/pods": ("Pod", True),
    "v1/secrets": ("Secret", True),
    "v1/services": ("Service", True),
    "v1/configmaps": ("ConfigMap", True),
    "v1/events": ("Event", True),
    "v1/persistentvolumeclaims": ("PersistentVolumeClaim", True),
    "v1/podtemplates": ("PodTemplate", True),
    "v1/serviceaccounts": ("ServiceAccount", True),
    "v1/nodes": ("Node", False),
    "v1/namespaces": ("Namespace", False),
    "apps/v1/deployments": ("Deployment", True),
    "batch/v1/jobs": ("Job", True),
    "rbac.authorization.k8s.io/v1/roles": ("Role", True),
    "rbac.authorization.k8s.io/v1/rolebindings": ("RoleBinding", True),
}
_VERSION = {"major": "1", "minor": "32", "gitVersion": "v1.32.0+mock", "platform": "linux/amd64"}
# kmock takes /namespaces/NAME for the beginning of a longer path, so they have another name inside.
_SPACES = "v1/spaces"


class Life(Protocol):
    """What happens in the cluster, one moment after another."""

    def tick(self, api: "Api") -> None:
        """One moment passes: somebody has looked."""

    def log(self, api: "Api", pod: Object) -> str: ...

    def run(self, api: "Api", pod: Object, command: list[str]) -> str:
        """What a command in the pod prints."""


class Api(kmock.KubernetesEmulator):
    """The server, without a socket."""

    def __init__(self, life: Life) -> None:
        super().__init__()
        self.life = life
        for name, (kind, namespaced) in KINDS.items():
            self.resources[name] = {  # type: ignore[typeddict-item]
                "kind": kind,
                "namespaced": namespaced,
                "singular": kind.lower(),
                "verbs": ["create", "delete", "get", "list", "patch", "watch"],
            }
        self["get /version"] << _VERSION
        self["get /openapi/v3"] << {"paths": {path: _schema_place(path) for path in _groups()}}
        for path, kinds in _groups().items():
            self[f"get /openapi/v3/{path}"] << _schema(kinds)

    async def __call__(self, raw_request: aiohttp.web.BaseRequest) -> aiohttp.web.StreamResponse:
        parts = raw_request.path.strip("/").split("/")
        if parts[:3] == ["api", "v1", "namespaces"] and len(parts) <= 4:
            parts[2] = "spaces"
            raw_request = raw_request.clone(rel_url=f"/{'/'.join(parts)}?{raw_request.query_string}")
        return await super().__call__(raw_request)

    async def _handle(self, request: kmock.Request) -> aiohttp.web.StreamResponse:
        if request.action == kmock.action.CREATE:
            self._accept(request)
        looks = (request.action == kmock.action.LIST and "labelSelector" not in request.params) and (
            request.resource == "v1/pods"
        )
        if looks or request.resource == _SPACES or request.subresource == "log":
            self.life.tick(self)
        if request.subresource == "log":
            return aiohttp.web.Response(text=self.life.log(self, self._pod(request)))
        if request.subresource == "exec":
            return await self._exec(request)
        return await super()._handle(request)

    def all(self, resource: str) -> list[Object]:
        """The objects of a kind, to read."""
        # Parsed once: compared with a text, kmock would parse that for every object.
        kind = kmock.resource(resource)
        return [each.raw for key, each in self.objects.items() if key[0] == kind and not each.deleted]

    def set_status(self, resource: str, each: Object, status: Object) -> None:
        self._stored(resource, each)["status"] = status

    def put(self, resource: str, made: Object) -> None:
        """An object that the cluster makes by itself."""
        metadata = made["metadata"]
        metadata.setdefault("uid", str(uuid.uuid4()))
        metadata.setdefault("resourceVersion", "1")
        self.objects[resource, metadata.get("namespace"), metadata["name"]] = made

    def remove(self, resource: str, each: Object) -> None:
        self._stored(resource, each).delete()

    def _stored(self, resource: str, each: Object) -> kmock.Object:
        metadata = each["metadata"]
        return self.objects[resource, metadata.get("namespace"), metadata["name"]]

    def _accept(self, request: kmock.Request) -> None:
        """Check it as a server does, and add what one adds. Raises KubernetesError."""
        try:
            kubernetes_validate.validate(request.data, latest_version(), strict=True)
        except kubernetes_validate.ValidationError as error:
            raise kmock.KubernetesError(422, "Invalid", str(error)) from error
        # Only the cluster says that.
        request.data.pop("status", None)
        metadata = request.data["metadata"]
        metadata |= {"uid": str(uuid.uuid4()), "resourceVersion": "1"}
        metadata |= {"creationTimestamp": "2026-01-01T00:00:00Z"}
        if request.resource == _SPACES:
            # It stays until it is empty.
            metadata["finalizers"] = ["kubernetes"]
        else:
            metadata.setdefault("namespace", request.namespace)
        key = (request.resource, request.namespace, metadata["name"])
        if key in self.objects and not self.objects[key].deleted:
            raise kmock.KubernetesError(409, "AlreadyExists", f'"{metadata["name"]}" already exists')

    async def _render_error(self, exc: Exception) -> aiohttp.web.StreamResponse:
        if isinstance(exc, kmock.KubernetesObjectNotFoundError):
            # By the reason, kubectl says (NotFound).
            exc = kmock.KubernetesError(404, "NotFound", "it is not there")
        return await super()._render_error(exc)

    async def _serve_version(self, request: kmock.Request) -> Any:
        told: Object = await super()._serve_version(request)
        # kmock says /v1 of what has no group, in which kubectl then finds no kind.
        return told | {"groupVersion": told["groupVersion"].lstrip("/")}

    async def _serve_list(self, request: kmock.Request) -> Any:
        group, version = request.resource.group, request.resource.version
        name = f"{group}/{version}/{request.resource.plural}".lstrip("/")
        found = [each for each in self.all(name) if _is_selected(each, request)]
        kind = KINDS.get(name, ("Namespace",))[0]
        return {
            "apiVersion": f"{group}/{version}".lstrip("/"),
            "kind": f"{kind}List",
            "metadata": {"resourceVersion": "1"},
            "items": found,
        }

    def _pod(self, request: kmock.Request) -> Object:
        for pod in self.all("v1/pods"):
            if pod["metadata"]["name"] == request.name:
                return pod
        raise kmock.KubernetesObjectNotFoundError()

    async def _exec(self, request: kmock.Request) -> aiohttp.web.StreamResponse:
        """By websocket, as kubectl does since 1.31: each message begins with its channel."""
        command = request.url.query.getall("command")
        said = self.life.run(self, self._pod(request), command)
        socket = aiohttp.web.WebSocketResponse(protocols=["v5.channel.k8s.io"])
        await socket.prepare(request._raw_request)
        # kubectl throws away what comes before it has made its streams; a real container is never that quick.
        await asyncio.sleep(0.2)
        await socket.send_bytes(b"\x01" + said.encode())
        await socket.send_bytes(b"\x03" + json.dumps({"status": "Success"}).encode())
        await socket.close()
        return socket


@contextmanager
def serving(api: Api) -> Iterator[str]:
    """Its address, while it answers."""
    loop, ready, over = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    address = []

    async def serve() -> None:
        async with api, kmock.Server(api) as server:
            address.append(str(server.url))
            ready.set()
            await over.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    try:
        assert ready.wait(10)
        yield address[0].rstrip("/")
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(10)
        loop.close()


def _groups() -> dict[str, list[tuple[str, str, str]]]:
    """Paths of groups, and what is in them: group, version, kind."""
    groups: dict[str, list[tuple[str, str, str]]] = {}
    for name, (kind, _) in KINDS.items():
        *group, version, _plural = name.split("/")
        path = f"apis/{group[0]}/{version}" if group else f"api/{version}"
        groups.setdefault(path, []).append((group[0] if group else "", version, kind))
    return groups


def _schema_place(path: str) -> Object:
    return {"serverRelativeURL": f"/openapi/v3/{path}?hash=0"}


def _schema(kinds: list[tuple[str, str, str]]) -> Object:
    """That the server checks fields itself, which is all that kubectl wants to know."""
    checked = {"parameters": [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}]}
    paths = {}
    for group, version, kind in kinds:
        named = {"group": group, "version": version, "kind": kind}
        paths[f"/{kind}"] = {"patch": {**checked, "x-kubernetes-group-version-kind": named, "responses": {}}}
    return {"openapi": "3.0.0", "info": {"title": "mock", "version": "0"}, "paths": paths}


def _is_selected(each: Object, request: kmock.Request) -> bool:
    metadata = each["metadata"]
    if request.namespace and metadata.get("namespace") != request.namespace:
        return False
    labels, fields = (request.params.get(name, "") for name in ("labelSelector", "fieldSelector"))
    if "metadata.name=" in fields and metadata["name"] != fields.partition("metadata.name=")[2]:
        return False
    has = metadata.get("labels", {})
    pairs = [pair.partition("=") for pair in labels.split(",") if pair]
    return all(name in has and (not equal or has[name] == value) for name, equal, value in pairs)
