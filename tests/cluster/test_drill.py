"""Hone on the cluster that KUBECONFIG names: `make test-cluster`. It takes half an hour on two cores."""

import os
import shutil

import pytest
from drill import run_drill
from drill_api import API_STEPS
from drill_plan import Images, Plan, new_namespace
from drill_record import has_gpu
from drill_steps import STEPS
from kubectl import Kubectl, KubectlFailed, Object

pytestmark = pytest.mark.cluster


def test_hone_lives_on_this_cluster(request: pytest.FixtureRequest) -> None:
    option = request.config.getoption
    _check_environment()
    namespace = new_namespace()
    kubectl = Kubectl(namespace)
    nodes = _nodes(kubectl)
    plan = Plan(
        namespace=namespace,
        images=Images.parse(option("--images")),
        storage_class=option("--storage-class"),
        gpu_node=None if option("--no-gpu") else _gpu_node(nodes or []),
        timeout=option("--timeout"),
        keep=option("--keep"),
    )
    print(f"\ncontext {kubectl.run('config', 'current-context').strip()}, namespace {namespace}")
    record = run_drill(plan, kubectl, nodes, (*STEPS, *API_STEPS) if option("--api") else STEPS)
    print(f"\n{record.summary()}")
    if not record.passed and not plan.keep:
        pytest.fail("\n".join(record.failures()), pytrace=False)
    assert not record.failures()


def _check_environment() -> None:
    if not os.environ.get("KUBECONFIG"):
        pytest.fail("KUBECONFIG is not set; set it to the file of the cluster to drill", pytrace=False)
    if shutil.which("kubectl") is None:
        pytest.fail("kubectl is not installed; install 1.27 or newer", pytrace=False)


def _nodes(kubectl: Kubectl) -> list[Object] | None:
    """None where this account may not look at them. Says first what no step could."""
    try:
        nodes = kubectl.items("nodes")
    except KubectlFailed as error:
        if error.is_forbidden:
            return None
        pytest.fail(f"the cluster does not answer: {error}", pytrace=False)
    kinds = {node["status"]["nodeInfo"]["architecture"] for node in nodes}
    if "amd64" not in kinds:
        pytest.fail(f"the nodes are {', '.join(kinds) or 'none'}; the images are for amd64", pytrace=False)
    return nodes


def _gpu_node(nodes: list[Object]) -> str | None:
    for node in nodes:
        if has_gpu(node) and not node.get("spec", {}).get("unschedulable"):
            return str(node["metadata"]["labels"]["kubernetes.io/hostname"])
    return None
