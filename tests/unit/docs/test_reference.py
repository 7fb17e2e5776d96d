"""docs/reference.md says what the code says."""

from __future__ import annotations

import yaml

from docs.generate import PAGE, VALUES, chart_values, page


def test_reference_is_what_the_code_gives() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "docs/reference.md is stale: run `make docs` and commit it"


def test_every_chart_value_is_listed() -> None:
    text = VALUES.read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    listed = {name: yaml.safe_load(value) for name, value, _ in chart_values(text)}
    for name, value in listed.items():
        found = content
        for key in name.split("."):
            found = found[key]
        assert found == value, name
    assert set(_leaves(content, "")) <= set(listed) | {
        f"{name}.{key}" for name, value in listed.items() if isinstance(value, dict) for key in value
    }


def test_a_comment_explains_the_value_below_it() -> None:
    text = "# Top.\na: 1\n\n# Of the map.\nb:\n  # Of c.\n  c: x\n  d: {}\n"
    assert list(chart_values(text)) == [("a", "1", "Top."), ("b.c", "x", "Of the map. Of c."), ("b.d", "{}", "")]


def _leaves(content: object, prefix: str) -> list[str]:
    if not isinstance(content, dict) or not content:
        return [prefix]
    return [leaf for key, value in content.items() for leaf in _leaves(value, f"{prefix}.{key}".lstrip("."))]
