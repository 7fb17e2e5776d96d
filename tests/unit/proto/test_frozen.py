"""The messages are a product: numbers, names and types of fields that peers know never change meaning."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, FileDescriptor

from tpd_core.proto import control_pb2, link_pb2

GOLDEN = Path(__file__).with_name("golden")
ROOT = Path(__file__).resolve().parents[3]
KINDS = {
    1: "double",
    3: "int64",
    4: "uint64",
    8: "bool",
    9: "string",
    11: "message",
    12: "bytes",
    13: "uint32",
    14: "enum",
}


def describe(file: FileDescriptor) -> str:
    """One line per field, value and method, in a stable order."""
    lines: list[str] = []

    def message(descriptor: Descriptor) -> None:
        for field in sorted(descriptor.fields, key=lambda one: one.number):
            kind = KINDS[field.type]
            if field.message_type is not None:
                kind = field.message_type.full_name
            if field.enum_type is not None:
                kind = field.enum_type.full_name
            many = "repeated " if field.is_repeated else ""
            lines.append(f"{descriptor.full_name} {field.number} {field.name}: {many}{kind}")
        for nested in descriptor.nested_types:
            message(nested)

    for name in sorted(file.message_types_by_name):
        message(file.message_types_by_name[name])
    for enum in sorted(file.enum_types_by_name.values(), key=lambda one: one.full_name):
        lines.extend(f"{enum.full_name} {value.number} {value.name}" for value in enum.values)
    for service in file.services_by_name.values():
        lines.extend(
            f"{service.full_name} {method.name}({method.input_type.full_name}) -> {method.output_type.full_name}"
            for method in service.methods
        )
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(("name", "file"), [("link", link_pb2.DESCRIPTOR), ("control", control_pb2.DESCRIPTOR)])
def test_messages_only_grow(name: str, file: FileDescriptor) -> None:
    frozen = (GOLDEN / f"{name}.txt").read_text().splitlines()
    lost = sorted(set(frozen) - set(describe(file).splitlines()))
    assert not lost, "peers of an older version rely on these; add fields instead of changing them"


@pytest.mark.parametrize(("name", "file"), [("link", link_pb2.DESCRIPTOR), ("control", control_pb2.DESCRIPTOR)])
def test_additions_are_frozen_too(name: str, file: FileDescriptor) -> None:
    frozen = (GOLDEN / f"{name}.txt").read_text()
    assert describe(file) == frozen, f"write the new description to {GOLDEN / name}.txt"


def test_generated_modules_are_current(tmp_path: Path) -> None:
    names = [f"tpd_core/proto/{name}.proto" for name in ("link", "control")]
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-I", "core", f"--python_out={tmp_path}", *names],
        cwd=ROOT,
        check=True,
    )
    for name in ("link", "control"):
        path = Path("tpd_core/proto") / f"{name}_pb2.py"
        assert (tmp_path / path).read_text() == (ROOT / "core" / path).read_text(), "run `make generate`"


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for key, value in (("link", link_pb2.DESCRIPTOR), ("control", control_pb2.DESCRIPTOR)):
        (GOLDEN / f"{key}.txt").write_text(describe(value))
