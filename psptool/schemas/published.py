"""The JSON Schemas of all artefacts, published for other programs in the top-level folder ``schemas/``."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Iterator, Mapping
from typing import Any

import psptool.schemas
from psptool.schemas.base import Artefact


def artefacts() -> dict[str, type[Artefact]]:
    """The model of every artefact, by the name of its module, such as ``split``."""
    found: dict[str, type[Artefact]] = {}
    for module in pkgutil.iter_modules(psptool.schemas.__path__):
        members = vars(importlib.import_module(f"psptool.schemas.{module.name}")).values()
        for member in members:
            own = isinstance(member, type) and member.__module__ == f"psptool.schemas.{module.name}"
            if own and issubclass(member, Artefact) and member is not Artefact:
                if module.name in found:
                    raise AssertionError(
                        f"psptool.schemas.{module.name} defines two artefacts; move one to its own module"
                    )
                found[module.name] = member
    return found


def json_schema(model: type[Artefact]) -> str:
    """The model's JSON Schema (2020-12) as indented text with sorted keys."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema()}
    return json.dumps(schema, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def keys(model: type[Artefact]) -> Iterator[tuple[str, str, str]]:
    """The dotted key, the default as JSON (empty if required) and the description of every value."""
    schema = model.model_json_schema()
    yield from _keys(schema, schema.get("$defs", {}), "")


def _keys(
    schema: Mapping[str, Any], groups: Mapping[str, Mapping[str, Any]], prefix: str
) -> Iterator[tuple[str, str, str]]:
    for key, value in schema["properties"].items():
        group = groups.get(str(value.get("$ref", "")).rpartition("/")[2])
        if group is not None and "properties" in group:
            yield from _keys(group, groups, f"{prefix}{key}.")
        else:
            default = json.dumps(value["default"], ensure_ascii=False) if "default" in value else ""
            yield f"{prefix}{key}", default, str(value.get("description", ""))
