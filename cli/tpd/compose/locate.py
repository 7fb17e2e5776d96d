"""Where compose would find the project: the only module here that reads the disk."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from tpd.compose.argv import ComposeCommand

# The names that compose looks for, best first.
DEFAULT_FILES = ("compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml")


def project_directory(command: ComposeCommand, cwd: Path, environ: Mapping[str, str]) -> Path:
    """The directory that relative paths and `.env` belong to, by compose's own rules.

    It is `--project-directory`, else the directory of the first file: of `-f`, of COMPOSE_FILE (which `.env` in the
    working directory may set), or of the nearest compose file at or above the working directory; else that directory.
    """
    if command.project_directory:
        return cwd / command.project_directory
    settings = _dotenv([cwd / name for name in command.env_files or (".env",)]) | dict(environ)
    files = list(command.files)
    if not files and settings.get("COMPOSE_FILE"):
        files = settings["COMPOSE_FILE"].split(settings.get("COMPOSE_PATH_SEPARATOR") or os.pathsep)
    for file in files:
        if file != "-":
            return (cwd / file).absolute().parent
    if not files:
        for directory in (cwd, *cwd.parents):
            if any((directory / name).is_file() for name in DEFAULT_FILES):
                return directory
    return cwd


def _dotenv(paths: list[Path]) -> dict[str, str]:
    """Just the settings that say where the project is; later files win."""
    found = {}
    for path in paths:
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue  # compose itself complains, in its own words
        for line in lines:
            name, equals, value = line.strip().removeprefix("export ").partition("=")
            if equals and name.strip() in ("COMPOSE_FILE", "COMPOSE_PATH_SEPARATOR"):
                found[name.strip()] = value.strip().strip("\"'")
    return found
