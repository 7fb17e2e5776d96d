"""What the pages say can be typed: links lead somewhere, and `tpd` takes every command line that is shown."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from tpd.cli.main import app

ROOT = Path(__file__).resolve().parents[3]
FOLDERS = ("docs", "tests", "compose", "changelog.d")
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))]

_LINK = re.compile(r"\[[^\]]*\]\(([^()\s]+)\)")
_FENCE = re.compile(r"^```(\w*)$")


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in _LINK.findall(_without_code(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            broken.append(link)
    assert not broken


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    linked = {(ROOT / "docs" / link).resolve() for link in _LINK.findall(index)}
    pages = {page for page in (ROOT / "docs").rglob("*.md") if page.name != "README.md"}
    assert pages <= linked


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_command_lines_are_taken(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TPD_MANAGER_NAMESPACE", raising=False)
    refused = []
    for line in _console_lines(page.read_text(encoding="utf-8")):
        for words in _tpd_commands(line):
            problem = _refusal(words)
            if problem:
                refused.append(f"{line}: {problem}")
    assert not refused


def test_a_wrong_command_line_is_refused() -> None:
    page = "```console\n$ tpd images load --kind my-cluster   # into the node\n$ tpd list \\\n    -n shop\n```\n"
    (wrong, right) = _console_lines(page)
    assert "--kind" in (_refusal(*_tpd_commands(wrong)) or "")
    assert _refusal(*_tpd_commands(right)) is None
    assert _refusal(["run"]) is not None
    assert _refusal(["lst"]) is not None
    assert _refusal(["list", "--format", "yaml"]) is not None


def test_commands_are_found_in_pipes_and_after_settings() -> None:
    assert list(_tpd_commands("TPD_TAG=x tpd status --format json | jq . && tpd quit # all")) == [
        ["status", "--format", "json"],
        ["quit"],
    ]
    assert list(_tpd_commands("docker compose up")) == []


def test_messages_that_are_explained_exist() -> None:
    code = _messages_in_code()
    text = (ROOT / "docs" / "tasks" / "troubleshooting.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    told = [message for row in rows for message in re.findall(r"`([^`]+)`", row.split(" | ")[0])]
    assert len(told) > 30
    unknown = [message for message in told if not message.startswith(_OTHERS) and _longest(message) not in code]
    assert not unknown


_OTHERS = (
    "ErrImagePull",
    "ImagePullBackOff",
    "could not find tpd-anchor",
    "tpd status",
)  # Kubernetes' and compose's words
_VARYING = (
    r"(?<!\w)'[^']*'|\b[A-Z]\b|\.\.\.|[(),;:/]|\d+"
    r"|\b(?:orders|deployment|workload|docker compose ps|read the compose project|start tpd's containers)\b"
)


def _longest(message: str) -> str:
    """The longest part of a message that does not vary."""
    return max((part.strip() for part in re.split(_VARYING, message)), key=len)


def _messages_in_code() -> str:
    """The sources, with literals joined that the compiler joins."""
    folders = ("cli/tpd", "cluster/tpd_cluster", "core/tpd_core")
    sources = [path.read_text(encoding="utf-8") for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return re.sub(r"\"\s+f?\"", "", "\n".join(sources))


def _console_lines(text: str) -> list[str]:
    lines: list[str] = []
    kind: str | None = None
    going_on = False
    for line in text.splitlines():
        fence = _FENCE.match(line.strip())
        if fence or line.strip() == "```":
            kind = fence[1] if fence and kind is None else None
            continue
        if kind != "console":
            continue
        if going_on:
            lines[-1] += " " + line.strip()
        elif line.strip().startswith("$ "):
            lines.append(line.strip().removeprefix("$ "))
        else:
            continue
        going_on = lines[-1].endswith("\\")
        lines[-1] = lines[-1].removesuffix("\\").rstrip()
    return lines


def _tpd_commands(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&<>")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    command: list[str] = []
    for word in [*lexer, ";"]:
        if not set(word) <= set(";|&<>"):
            command.append(word)
            continue
        while command and re.fullmatch(r"[A-Za-z_]+=.*", command[0]):
            del command[0]
        if command and command[0] == "tpd":
            yield command[1:]
        command = []


def _refusal(words: list[str]) -> str | None:
    """What `tpd` would say against a command line, which is parsed but not carried out."""
    command: Any = typer.main.get_command(app)
    parent = None
    try:
        name = "tpd"
        while True:
            context = command.make_context(name, list(words), parent=parent)
            if not hasattr(command, "commands"):
                return None
            rest = [*context._protected_args, *context.args]
            name, command, words = command.resolve_command(context, rest)
            parent = context
    except SystemExit:
        return None
    except Exception as error:
        return None if type(error).__name__ == "Exit" else str(getattr(error, "message", error))


def _without_code(text: str) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def _anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as forges make them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
