"""The dashboards: Prometheus can parse what they ask, Hone has the metrics, and no panel hides another."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase
from watching import DASHBOARDS, ROOT, dashboard, expressions, metrics_of, named_metrics, promtool

import hone_api.metrics
import hone_server.metrics
from hone_trainer.reporting.exporter import _HELP as TRAINING

BY_NAME = pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)


@BY_NAME
def test_prometheus_can_parse_every_expression(path: Path, prometheus: Path, tmp_path: Path) -> None:
    records = [
        {"record": f"expression:{number}", "expr": expression}
        for number, expression in enumerate(expressions(path))
    ]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "expressions", "rules": records}]}))
    promtool(prometheus, "check", "rules", "--lint=none", file.name, cwd=tmp_path)


def test_every_metric_of_ours_is_one_that_we_have() -> None:
    """Each has samples: tests/e2e/test_observability.py asks real servers, test_api_metrics.py the api."""
    here = {
        sample.name
        for metric in REGISTRY.collect()
        if metric.name.startswith("hone_")
        for sample in metric.samples
    } | _declared()
    # Those of a route have no samples before it was asked.
    here |= {f"{name}_bucket" for name in _declared("histogram")}
    trainer = {f"hone_training_{name}" + ("_total" if name == "tokens" else "") for name in TRAINING}
    ours = {name for name in named_metrics() if name.startswith("hone_")}
    assert ours <= here | trainer


def test_every_metric_of_ours_is_watched_somewhere() -> None:
    watched = named_metrics()
    missed = {name for name in _declared() if not {name, f"{name}_count", f"{name}_bucket"} & watched}
    assert missed == {"hone_requests_inside"}


@BY_NAME
def test_no_panel_hides_another(path: Path) -> None:
    panels = dashboard(path)["panels"]
    assert len({panel["title"] for panel in panels}) == len(panels)
    for panel, other in itertools.combinations(panels, 2):
        assert not _overlap(panel["gridPos"], other["gridPos"]), (panel["title"], other["title"])
    for panel in panels:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24, panel["title"]


@BY_NAME
def test_a_dashboard_asks_whatever_prometheus_it_is_given(path: Path) -> None:
    loaded = dashboard(path)
    assert loaded["uid"] == f"hone-{path.stem}"
    first, *others = loaded["templating"]["list"]
    assert (first["name"], first["type"], first["query"]) == ("datasource", "datasource", "prometheus")
    every = [*loaded["panels"], *others]
    assert {each["datasource"]["uid"] for each in every} == {"${datasource}"}


def test_compose_mounts_what_grafana_is_told_to_read() -> None:
    services: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    mounted = dict(volume.split(":")[:2] for volume in services["grafana"]["volumes"])
    providers = yaml.safe_load((ROOT / "observability" / "grafana-dashboards.yaml").read_text())["providers"]
    source = yaml.safe_load((ROOT / "observability" / "grafana-datasource.yaml").read_text())["datasources"][
        0
    ]
    assert mounted[f"./{DASHBOARDS[0].parent.relative_to(ROOT)}"] == providers[0]["options"]["path"]
    assert source["url"] == "http://prometheus:9090"


def test_the_names_of_metrics_are_found_in_an_expression() -> None:
    assert metrics_of('sum(rate(hone_a_total{x="hone_b"}[1m])) / vllm:c_d > 0') == {
        "hone_a_total",
        "vllm:c_d",
    }


def _overlap(a: dict[str, int], b: dict[str, int]) -> bool:
    return (
        a["x"] < b["x"] + b["w"]
        and b["x"] < a["x"] + a["w"]
        and a["y"] < b["y"] + b["h"]
        and b["y"] < a["y"] + a["h"]
    )


def _declared(*types: str) -> set[str]:
    """The names that metrics of server and api have at `/metrics`, also those that have no sample yet."""
    declared = [*vars(hone_server.metrics).values(), *vars(hone_api.metrics).values()]
    metrics = [each for each in declared if isinstance(each, MetricWrapperBase)]
    families = [family for metric in metrics for family in metric.describe()]
    return {
        f"{each.name}_total" if each.type == "counter" else each.name
        for each in families
        if not types or each.type in types
    }
