"""A cluster that lives: controllers that make pods of Jobs and Deployments, and pods that do what Hone's do.

Every look at it lets one moment pass, so nothing waits for a clock. What goes wrong is said beforehand.
"""

import json
from dataclasses import dataclass, field

from cluster_faults import stage_of
from kubectl import Object
from mock_api import Api
from mock_states import ended, pending, pulling, running
from mock_tuning import CLIENTS, DELETES, KEY, Tuning
from mock_words import Troubles, words_of

from hone_api.serving.deployment import SERVER

PODS, JOBS, CLAIMS, DEPLOYMENTS = (
    "v1/pods",
    "batch/v1/jobs",
    "v1/persistentvolumeclaims",
    "apps/v1/deployments",
)


@dataclass
class Life:
    """The fiction."""

    troubles: Troubles = field(default_factory=Troubles)
    versions: list[str] = field(default_factory=list)
    """That were published, the newest last."""
    served: str = ""
    server_at: dict[str, str] = field(default_factory=dict)
    """By asking pod: the version, or the server's pod, when it began."""
    grace: int = 2
    tuning: Tuning = field(default_factory=Tuning)

    def tick(self, api: Api) -> None:
        for space in api.all("v1/spaces"):
            if "deletionTimestamp" in space["metadata"]:
                self._empty(api, space)
                return
        for claim in api.all(CLAIMS):
            if not self.troubles.claim_pends:
                api.set_status(CLAIMS, claim, {"phase": "Bound"})
            else:
                api.set_status(CLAIMS, claim, {"phase": "Pending"})
        for job in api.all(JOBS):
            self._advance_job(api, job)
        _remove_orphans(api)
        for deployment in api.all(DEPLOYMENTS):
            self._advance_server(api, deployment)
        for pod in api.all(PODS):
            if not _labels(pod).keys() & {"job-name", "pod-template-hash"}:
                self._advance_pod(api, pod)
        self.tuning.tick(api, self.troubles)

    def log(self, api: Api, pod: Object) -> str:
        assert api is not None
        if (name := pod["metadata"]["name"]) in (*CLIENTS, DELETES):
            return self.tuning.log(name)
        before = self.server_at.get(pod["metadata"]["name"], "")
        return words_of(pod, self.troubles, before, self.served)

    def run(self, api: Api, pod: Object, command: list[str]) -> str:
        assert api is not None
        if command == ["hone-server", "status"]:
            server = {"ready": True, "version": self.served}
            return json.dumps({"model": "hone-faq", "live": self.versions[-1], "server": server})
        if command == ["hone-api", "keys", "create"]:
            assert _labels(pod)["app.kubernetes.io/name"] == "hone-api"
            return f"{KEY}\n"
        assert command == ["hone-store", "ls"], command
        assert pod["metadata"]["name"] == "hone-files"
        return "\n".join(f"model hone-faq/{version}" for version in self.versions)

    def _advance_job(self, api: Api, job: Object) -> None:
        name, status = job["metadata"]["name"], job.get("status", {})
        if status.get("conditions"):
            return
        pods = [pod for pod in api.all(PODS) if _labels(pod).get("job-name") == name]
        if not pods and status.get("active") and job["spec"].get("backoffLimit") == 0:
            # Its pod was deleted, and there is to be no other.
            told = {"type": "Failed", "reason": "BackoffLimitExceeded", "status": "True", "message": ""}
            api.set_status(JOBS, job, {"conditions": [told]})
            return
        if not pods:
            self._make_pod(api, job, {"job-name": name})
            api.set_status(JOBS, job, {"active": 1})
            return
        (pod,) = pods
        if (hindered := self._hindrance(pod)) is not None:
            api.set_status(PODS, pod, hindered)
        elif pod["status"]["phase"] == "Pending":
            api.set_status(PODS, pod, running(pod))
        elif name.endswith("interrupted") or self._waits(api, job):
            return
        else:
            self._end_job(api, job, pod)

    def _end_job(self, api: Api, job: Object, pod: Object) -> None:
        name = job["metadata"]["name"]
        code, said = self.troubles.exit_codes.get(name, (0, ""))
        api.set_status(PODS, pod, ended(pod, code, said))
        told = {"type": "Failed", "reason": "BackoffLimitExceeded"} if code else {"type": "Complete"}
        api.set_status(JOBS, job, {"conditions": [{**told, "status": "True", "message": ""}]})
        if name.startswith("hone-merge") and not code:
            self.versions.append(f"version-{len(self.versions) + 1}")

    def _waits(self, api: Api, job: Object) -> bool:
        """A merger, for the trainer of its run."""
        if job["metadata"]["name"] == "hone-base":
            return False
        if stage := stage_of(job):
            return not self.tuning.may_end(stage)
        run = _labels(job["spec"]["template"])["hone-run"]
        trainers = [
            each
            for each in api.all(JOBS)
            if _labels(each["spec"]["template"])["hone-run"] == run
            and each["metadata"]["name"].startswith("hone-train")
        ]
        assert trainers, f"{job['metadata']['name']} waits for ever: no trainer has the run {run}"
        return "merge" in job["metadata"]["name"] and not any(
            each.get("status", {}).get("conditions") for each in trainers
        )

    def _advance_server(self, api: Api, deployment: Object) -> None:
        name, uid = (deployment["metadata"][each] for each in ("name", "uid"))
        pods = [pod for pod in api.all(PODS) if _labels(pod).get("pod-template-hash") == uid]
        if not pods:
            self._make_pod(api, deployment, {"pod-template-hash": uid})
            api.set_status(DEPLOYMENTS, deployment, {"observedGeneration": 1})
            return
        (pod,) = pods
        if (hindered := self._hindrance(pod)) is not None:
            api.set_status(PODS, pod, hindered)
        elif name == "hone-api" or SERVER in _labels(deployment) or self._has_model(api, deployment):
            if self.versions and not (self.served and self.troubles.refuses_versions):
                self.served = self.versions[-1]
            api.set_status(PODS, pod, running(pod, ready=True))
            counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), 1)
            api.set_status(DEPLOYMENTS, deployment, {"observedGeneration": 1, **counts})
        else:
            api.set_status(PODS, pod, running(pod))

    def _has_model(self, api: Api, server: Object) -> bool:
        """A version to serve, or its base."""
        (container,) = server["spec"]["template"]["spec"]["containers"]
        if "--base" not in container["args"]:
            return bool(self.versions)
        jobs = [each for each in api.all(JOBS) if each["metadata"]["name"] == "hone-base"]
        return any(each.get("status", {}).get("conditions") for each in jobs)

    def _advance_pod(self, api: Api, pod: Object) -> None:
        """One that was made by hand."""
        name = pod["metadata"]["name"]
        if (hindered := self._hindrance(pod)) is not None:
            api.set_status(PODS, pod, hindered)
        elif "status" not in pod:
            api.set_status(PODS, pod, pending(pod))
        elif pod["status"]["phase"] == "Pending":
            self.server_at[name] = _server(api) if "stream" in name else self.served
            api.set_status(PODS, pod, running(pod))
        elif "files" not in name and self._is_over(api, pod):
            api.set_status(PODS, pod, ended(pod, 0, ""))

    def _is_over(self, api: Api, pod: Object) -> bool:
        name = pod["metadata"]["name"]
        if name in CLIENTS:
            return self.tuning.is_over(name)
        if "load" in name:
            return self.served != self.server_at[name] or self.troubles.refuses_versions
        if "stream" not in name:
            return True
        # A few moments of the server's grace.
        self.grace -= _server(api) != self.server_at[name]
        return self.grace < 0

    def _make_pod(self, api: Api, owner: Object, labels: dict[str, str]) -> None:
        template, name = owner["spec"]["template"], owner["metadata"]["name"]
        number = sum(key[2].startswith(f"{name}-p") for key in api.objects if key[0] == PODS) + 1
        pod: Object = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"{name}-p-{number}",
                "namespace": owner["metadata"]["namespace"],
                "labels": {**_labels(template), **labels},
            },
            "spec": template["spec"],
        }
        pod["status"] = pending(pod)
        api.put(PODS, pod)

    def _hindrance(self, pod: Object) -> Object | None:
        """The status of a pod that cannot run."""
        limits = [each["resources"]["limits"] for each in pod["spec"]["containers"]]
        if self.troubles.claim_pends:
            return pending(pod, "pod has unbound immediate PersistentVolumeClaims")
        if self.troubles.gpus_taken and any("nvidia.com/gpu" in each for each in limits):
            return pending(pod, "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.")
        images = [each["image"] for each in pod["spec"]["containers"]]
        if self.troubles.missing_image and self.troubles.missing_image in images[0]:
            return pulling(pod)
        return None

    def _empty(self, api: Api, space: Object) -> None:
        if self.troubles.namespace_stays:
            told = {"type": "NamespaceContentRemaining", "status": "True", "message": "pods. has 1 instance"}
            api.set_status("v1/spaces", space, {"phase": "Terminating", "conditions": [told]})
            return
        here = space["metadata"]["name"]
        for key, each in list(api.objects.items()):
            if key[1] == here and not each.deleted:
                each.delete()
        api.remove("v1/spaces", space)


def _remove_orphans(api: Api) -> None:
    """Pods of Deployments that were deleted."""
    there = [each["metadata"]["uid"] for each in api.all(DEPLOYMENTS)]
    for pod in api.all(PODS):
        owner = _labels(pod).get("pod-template-hash")
        if owner is not None and owner not in there:
            api.remove(PODS, pod)


def _labels(each: Object) -> dict[str, str]:
    labels: dict[str, str] = each["metadata"].get("labels", {})
    return labels


def _server(api: Api) -> str:
    wanted = ("app.kubernetes.io/name", "hone-server")
    return next((pod["metadata"]["name"] for pod in api.all(PODS) if wanted in _labels(pod).items()), "")
