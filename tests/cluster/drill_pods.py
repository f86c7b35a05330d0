"""Pods of the chat's image that the drill asks the server from, run as the guide's `kubectl run` does."""

import json
from pathlib import Path

from drill_plan import BASE, Plan, one_node
from kubectl import Kubectl, Object

_ASKER = Path(__file__).with_name("asker.py")


def run_chat(kubectl: Kubectl, plan: Plan, name: str, question: str) -> None:
    """One question by `hone-chat`, without chance."""
    # The guide's -it and --rm want somebody who looks on; the log has the answer here.
    _run(kubectl, plan, name, "--", "--temperature", "0", question)


def run_asker(kubectl: Kubectl, plan: Plan, name: str, mode: str, seconds: float) -> None:
    """`asker.py` in one of its modes."""
    script = _ASKER.read_text(encoding="utf-8")
    _run(kubectl, plan, name, "--command", "--", "python3", "-c", script, mode, f"{seconds:g}")


def run_client(kubectl: Kubectl, plan: Plan, name: str, mode: str, words: list[str]) -> None:
    """`client.py` in one of its modes, against the api, with a client's key and files."""
    overrides = _overrides()
    (container,) = overrides["spec"]["containers"]
    key = {"secretKeyRef": {"name": "hone-drill-client", "key": "HONE_API_KEY"}}
    container["env"] = [
        {"name": "HONE_URL", "value": "http://hone-api:8080/v1"},
        {"name": "HONE_API_KEY", "valueFrom": key},
    ]
    container["volumeMounts"] = [{"name": "drill", "mountPath": "/drill", "readOnly": True}]
    overrides["spec"]["volumes"] = [{"name": "drill", "configMap": {"name": "hone-drill"}}]
    command = ["python3", "/drill/client.py", mode, f"{plan.timeout:g}", *words]
    _run(kubectl, plan, name, "--command", "--", *command, overrides=overrides)


def _overrides() -> Object:
    read: Object = json.loads((BASE / "chat" / "overrides.json").read_text(encoding="utf-8"))
    return read


def _run(kubectl: Kubectl, plan: Plan, name: str, *more: str, overrides: Object | None = None) -> None:
    overrides = overrides or _overrides()
    # kubectl names the container as the pod, and merges by that name.
    overrides["spec"]["containers"][0]["name"] = name
    # Pods with the store follow any pod of Hone; one elsewhere would lead them away from the volume.
    overrides["spec"]["affinity"] = one_node()
    overrides["spec"] |= plan.on_gpu_node() if plan.gpu_node else {}
    kubectl.run(
        "run",
        name,
        "--restart=Never",
        f"--image={plan.images.full('hone-chat')}",
        "--override-type=strategic",
        f"--overrides={json.dumps(overrides)}",
        *more,
    )
