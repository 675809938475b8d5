"""What lies in deploy/, as far as it can be checked without Docker and a cluster."""

import json
import re
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"


def test_the_dashboard_shows_metrics_that_there_are(served):
    served.chat()
    with served.client() as client:
        metrics = client.get("/metrics").text
    dashboard = json.loads((DEPLOY / "grafana" / "fathom.json").read_text())
    shown = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"fathom_\w+", target["expr"])
    }
    assert len(shown) > 10
    assert [name for name in sorted(shown) if not re.search(rf"^{name}[ {{]", metrics, re.MULTILINE)] == []


@pytest.mark.parametrize(
    "name", ["compose.yaml", "prometheus.yml", "kubernetes/fathom.yaml", "kubernetes/ray-serve.yaml"]
)
def test_the_files_are_yaml(name):
    yaml = pytest.importorskip("yaml")
    documents = list(yaml.safe_load_all((DEPLOY / name).read_text()))
    assert documents
    assert all(isinstance(document, dict) for document in documents)


def test_every_variable_that_they_set_exists():
    from fathom.cli.settings import SETTINGS

    known = {one.variable for one in SETTINGS} | {"FATHOM_HOME", "FATHOM_DATABASE_URL"}
    for file in DEPLOY.rglob("*"):
        if file.is_file():
            assert set(re.findall(r"FATHOM_[A-Z_]+", file.read_text())) <= known, file.name
