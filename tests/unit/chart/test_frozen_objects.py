"""The custom resources are a product: fields that stored objects and older peers rely on never change."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

TEMPLATES = Path(__file__).resolve().parents[3] / "cluster" / "chart" / "templates"
GOLDEN = Path(__file__).with_name("golden")


def fields(schema: dict[str, Any], path: str) -> Iterator[str]:
    """One line per field: its path, its type, and what a value must satisfy."""
    rules: dict[str, Any] = {
        key: schema[key] for key in ("enum", "pattern", "minimum", "maximum", "format") if key in schema
    }
    rules |= {"required": sorted(schema["required"])} if "required" in schema else {}
    yield f"{path} {schema.get('type', 'any')}" + (f" {rules}" if rules else "")
    for name, inner in sorted(schema.get("properties", {}).items()):
        yield from fields(inner, f"{path}.{name}")
    if "items" in schema:
        yield from fields(schema["items"], f"{path}[]")


def describe(name: str) -> str:
    text = re.sub(r"^.*\{\{.*$", "", (TEMPLATES / f"crd-{name}.yaml").read_text(), flags=re.MULTILINE)
    crd = yaml.safe_load(text)
    lines = [f"{crd['spec']['group']} {crd['spec']['names']['kind']} {crd['spec']['scope']}"]
    for version in crd["spec"]["versions"]:
        lines += fields(version["schema"]["openAPIV3Schema"], version["name"])
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", ["sessions", "attachments"])
def test_fields_are_frozen(name: str) -> None:
    frozen = (GOLDEN / f"{name}.txt").read_text()
    assert describe(name) == frozen, "changing a field breaks stored objects: add one, or add a version"


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for each in ("sessions", "attachments"):
        (GOLDEN / f"{each}.txt").write_text(describe(each))
