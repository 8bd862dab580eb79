"""The schema of the chart's values is the one that deploy/helm/write-schema.py would write."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "fednot"
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())


def test_it_is_fresh() -> None:
    """It names each setting of both daemons: after a new one, `make chart-schema`."""
    writer = runpy.run_path(str(ROOT / "deploy" / "helm" / "write-schema.py"))
    assert (CHART / "values.schema.json").read_text() == writer["written"](), "make chart-schema"


@pytest.mark.parametrize("name", ["values.yaml", "ci/small.yaml", "ci/production.yaml"])
def test_the_values_are_valid(name: str) -> None:
    jsonschema.validate(yaml.safe_load((CHART / name).read_text()), SCHEMA)


@pytest.mark.parametrize("role", ["server", "client"])
@pytest.mark.parametrize("name", ["insecure", "database", "identity", "state-dir", "adress"])
def test_no_settings_may_say_these(role: str, name: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({role: {"settings": {name: "x"}}}, SCHEMA)


def test_every_value_is_known_to_the_schema() -> None:
    """A default that the schema lacks would be refused; what it has beside is a leftover."""

    def keys(schema: dict[str, Any], values: Any, place: str) -> set[str]:
        if not isinstance(values, dict) or "properties" not in schema:
            return set()
        known, given = schema["properties"], values
        missing = {f"{place}.{key}" for key in known.keys() - given.keys()}
        return missing.union(
            *(keys(known[key], value, f"{place}.{key}") for key, value in given.items())
        )

    found = keys(SCHEMA, yaml.safe_load((CHART / "values.yaml").read_text()), "")
    assert {each for each in found if ".settings." not in each} == {".global"}
