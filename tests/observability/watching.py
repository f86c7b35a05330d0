"""What k8s/components/monitoring says: its rules, its dashboards, and the metrics that both name."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "k8s" / "components" / "monitoring"
RULES = MONITORING / "rules.yaml"
DASHBOARDS = sorted((MONITORING / "dashboards").glob("*.json"))
_METRIC = re.compile(r"\b(?:hone|vllm:)[a-z_:]+\b")


def alerts() -> list[dict[str, Any]]:
    """Every alerting rule."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def expressions(path: Path) -> list[str]:
    """Of a dashboard's panels, with Grafana's variables filled in."""
    targets = [target["expr"] for panel in dashboard(path)["panels"] for target in panel["targets"]]
    return [_filled(expression) for expression in targets]


def promtool(prometheus: Path, *arguments: str, cwd: Path) -> None:
    """Run it in a folder; AssertionError with what it says when it is not content."""
    command = [str(prometheus / "promtool"), *arguments]
    finished = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)
    assert finished.returncode == 0, finished.stdout + finished.stderr


def metrics_of(expression: str) -> set[str]:
    """The names of metrics in an expression, without strings and what is between braces."""
    bare = re.sub(r"\{[^}]*\}", "", expression)
    return set(_METRIC.findall(bare))


def named_metrics() -> set[str]:
    """Every metric that a rule, a panel or a variable of a dashboard asks for."""
    asked = [rule["expr"] for rule in alerts()]
    for path in DASHBOARDS:
        asked += expressions(path)
        asked += [
            variable["query"]["query"].removeprefix("label_values(").partition(",")[0]
            for variable in dashboard(path)["templating"]["list"]
            if variable["type"] == "query"
        ]
    return {name for expression in asked for name in metrics_of(expression)}


def _filled(expression: str) -> str:
    times = {"$__rate_interval": "1m", "$__range": "1h"}
    for name, value in times.items():
        expression = expression.replace(name, value)
    return re.sub(r"\$\{?\w+\}?", ".*", expression)
