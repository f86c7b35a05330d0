"""Writes prometheus-rule.yaml, the rules for the Prometheus operator, from rules.yaml (`make rules`)."""

from pathlib import Path

import yaml

HERE = Path(__file__).parent
HEAD = "# Made from rules.yaml: `make rules`.\n"


def prometheus_rule() -> str:
    """The object, as YAML."""
    rules = yaml.safe_load((HERE / "rules.yaml").read_text(encoding="utf-8"))
    metadata = {"name": "hone", "labels": {"app.kubernetes.io/part-of": "hone"}}
    made = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": metadata,
        "spec": rules,
    }
    return HEAD + yaml.safe_dump(made, sort_keys=False, allow_unicode=True, width=120)


if __name__ == "__main__":
    (HERE / "prometheus-rule.yaml").write_text(prometheus_rule(), encoding="utf-8")
