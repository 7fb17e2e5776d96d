"""Writes docs/reference.md: commands, exit codes, JSON and chart values, all from the code.

`make docs` runs it; a unit test fails when the page is stale.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from docs.examples import examples
from tpd.cli.main import app
from tpd_core.errors import Category

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reference.md"
VALUES = ROOT / "cluster" / "chart" / "values.yaml"

_HEAD = """\
# Reference

Generated from the code by `make docs`. Do not edit it by hand.

- [Commands](#commands)
- [Exit codes](#exit-codes)
- [Environment variables](#environment-variables)
- [JSON](#json)
- [Chart values](#chart-values)
"""

_EXIT = {
    Category.USER: "the command line or the compose file asks for something that cannot be",
    Category.CONFIG: "a configuration cannot be used: kubeconfig, docker context, state directory, helm binary",
    Category.CLUSTER: "the cluster refuses something, or lacks it",
    Category.NETWORK: "something cannot be reached",
    Category.ENGINE: "the container engine refuses something, or there is none",
    Category.BUG: "tpd itself: please report it, with what `--debug` shows",
}

_VARIABLES = {
    "DOCKER_CONTEXT": "the docker context, as for `docker`",
    "DOCKER_HOST": "the engine's address, as for `docker`",
    "KUBECONFIG": "path of the kubeconfig, where `--kubeconfig` is not given",
    "TPD_DEBUG": "show tracebacks with errors, as `--debug` does",
    "TPD_HELM": "path of the `helm` binary, where it is not on the PATH",
    "XDG_STATE_HOME": "on Linux: the directory that tpd's own (`tpd/runs/NAME`) is in, by default `~/.local/state`",
}


def page() -> str:
    """The whole page."""
    root = typer.main.get_command(app)
    parts = [
        _HEAD,
        "## Commands\n",
        *(_command(path, command) for path, command in walk(root)),
        _exit_codes(),
        _variables(root),
        _json(),
        _chart_values(),
    ]
    return "\n".join(parts)


def walk(command: Any, path: tuple[str, ...] = ("tpd",)) -> Iterator[tuple[tuple[str, ...], Any]]:
    """A command and all below it, with their full names."""
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from walk(child, (*path, name))


def _command(path: tuple[str, ...], command: Any) -> str:
    arguments = [item for item in command.params if item.param_type_name == "argument"]
    options = [item for item in command.params if item.param_type_name == "option"]
    usage = [*path, *(["[OPTIONS]"] if options else []), *(_usage(item) for item in arguments)]
    below = getattr(command, "commands", {})
    if below:
        usage.append("COMMAND")
    lines = [f"### {' '.join(path)}\n", f"    {' '.join(usage)}\n", f"{(command.help or '').strip()}\n"]
    if below:
        lines.append("Commands: " + ", ".join(f"`{name}`" for name in below) + ".\n")
    rows = [(f"`{_usage(item)}`", _described(item)) for item in arguments]
    rows += [(_option(item), _described(item)) for item in options]
    if rows:
        lines.append(_table(("", ""), rows))
    return "\n".join(lines)


def _usage(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    if name.startswith("["):
        return str(name)
    many = "..." if argument.nargs == -1 and not argument.metavar else ""
    return f"{name}{many}" if argument.required else f"[{name}{many}]"


def _option(option: Any) -> str:
    names = [f"`{name}`" for name in sorted((*option.opts, *option.secondary_opts), key=len)]
    if getattr(option, "is_flag", False):
        return ", ".join(names)
    choices = _choices(option)
    value = "&#124;".join(choices) if choices else (option.metavar or _kind(option))
    return f"{', '.join(names)} *{value}*"


def _choices(option: Any) -> list[str]:
    kind = option.type_descriptor.annotation
    for inner in (kind, *getattr(kind, "__args__", ())):
        if hasattr(inner, "__members__"):
            return [str(member.value) for member in inner]
    return []


def _kind(option: Any) -> str:
    return "NUMBER" if option.type_descriptor.annotation is int else "TEXT"


def _described(option: Any) -> str:
    words = [re.sub(r" \[default: (.*)\]", r"; default: \1", option.help or "")]
    default = getattr(option, "default", None)
    if default not in (None, False, [], ()) and not callable(default):
        flag = getattr(option, "is_flag", False)
        shown = option.opts[0] if flag and option.secondary_opts else str(getattr(default, "value", default))
        words.append(f"default: `{shown}`")
    if getattr(option, "envvar", None):
        words.append(f"environment: `{option.envvar}`")
    return "; ".join(words)


def _exit_codes() -> str:
    rows = [
        ("0", "done; `tpd run` and `tpd intercept ... -- docker run` end with their command's own status"),
        *((str(item.exit_code), f"`{item.value}`: {_EXIT[item]}") for item in Category),
        ("130", "ended by Ctrl-C"),
        ("128 + N", "ended by signal N, as in 143 for SIGTERM"),
    ]
    head = "## Exit codes\n\nErrors have a category, which decides the exit code and stands in the JSON as well.\n"
    return f"{head}\n{_table(('code', 'meaning'), rows)}"


def _variables(root: Any) -> str:
    found = dict(_VARIABLES)
    for path, command in walk(root):
        for option in command.params:
            if getattr(option, "envvar", None):
                where = f"`{option.opts[0]}` of `{' '.join(path)}`"
                old = found.get(option.envvar)
                found[option.envvar] = where if old is None else f"{old}, `{' '.join(path)}`"
    rows = sorted((f"`{name}`", meaning) for name, meaning in found.items())
    return f"## Environment variables\n\n{_table(('name', 'meaning'), rows)}"


def _json() -> str:
    parts = [
        "## JSON\n",
        "`--format json` makes output that programs can read. The examples come from the code itself.\n",
    ]
    for title, text, content in examples():
        parts.append(f"### {title}\n\n{text}\n\n```json\n{content}\n```\n")
    return "\n".join(parts)


def _chart_values() -> str:
    rows = [
        (f"`{name}`", f"`{value}`" if value else "", note) for name, value, note in chart_values(VALUES.read_text())
    ]
    head = (
        "## Chart values\n\nFor `--set NAME=VALUE` and `--values FILE` of `tpd helm install` and `tpd helm upgrade`.\n"
    )
    return f"{head}\n{_table(('value', 'default', 'meaning'), rows)}"


def chart_values(text: str) -> Iterator[tuple[str, str, str]]:
    """Name, default and comment of each value.

    Args:
        text: values.yaml: maps indented by two spaces, a comment above what it explains, every leaf on one line.
    """
    path: list[str] = []
    notes: list[str] = []
    pending = ""  # a map's own comment goes to its first leaf
    for line in text.splitlines():
        words = line.strip()
        if words.startswith("#"):
            notes.append(words.removeprefix("#").strip())
            continue
        note, notes = " ".join(notes), []
        match = re.fullmatch(r"( *)([A-Za-z]+):(?: (.*))?", line)
        if match is None:
            continue
        indent, key, value = len(match[1]) // 2, match[2], match[3]
        path[indent:] = [key]
        if value is None:
            pending = note or pending
            continue
        yield ".".join(path), value, " ".join(item for item in (pending, note) if item)
        pending = ""


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]] | list[Any]) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    lines += [f"| {' | '.join(cell.replace(' | ', ' &#124; ') for cell in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"wrote {PAGE.relative_to(ROOT)}\n")
