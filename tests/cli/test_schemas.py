"""The published JSON Schemas are current and complete, and files are valid under them."""

import json
from pathlib import Path

import jsonschema
import pytest

from psptool.schemas.published import artefacts, json_schema

PUBLISHED = Path(__file__).parents[2] / "schemas"


def test_published_schemas_are_current():
    texts = {path.stem: path.read_text(encoding="utf-8") for path in PUBLISHED.glob("*.json")}
    assert texts == {name: json_schema(model) for name, model in artefacts().items()}


def test_check_reports_missing_changed_and_unknown_schemas(psptool):
    psptool("schemas", "--check", code=1)
    psptool("schemas")
    assert "are current" in psptool("schemas", "--check").out
    path = Path("schemas/split.json")
    path.write_text(path.read_text().replace("labelled", "labeled"))
    Path("schemas/old.json").write_text("{}")
    ran = psptool("schemas", "--check", code=1)
    assert "schemas/split.json: differs" in ran.out
    assert "schemas/old.json: no schema of psptool has this name" in ran.out


def test_every_schema_is_valid_and_refuses_unknown_keys():
    for model in artefacts().values():
        schema = json.loads(json_schema(model))
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema["additionalProperties"] is False


@pytest.mark.parametrize("name", sorted(artefacts()))
def test_keys_of_every_artefact_can_be_listed(psptool, name):
    out = psptool("schemas", "--show", name).out
    assert all(key in out for key in artefacts()[name].model_fields if key != "model")


def test_split_and_report_are_valid_under_their_schemas(psptool, ucla_raw):
    psptool("prepare", "ucla", "--raw", ucla_raw)
    psptool("split", "--ratio", "0.5")
    schema = json.loads(json_schema(artefacts()["split"]))
    split = json.loads(Path("splits/ucla-xview-0.5-s0.json").read_text())
    jsonschema.validate(split, schema)
    report = json.loads(Path("data/ucla.report.json").read_text())
    jsonschema.validate(report, json.loads(json_schema(artefacts()["report"])))
