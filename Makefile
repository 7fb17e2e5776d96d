SHELL := /bin/bash
.DEFAULT_GOAL := help
PY := .venv/bin/python

.PHONY: help
help: ## this list
	@grep -hE '^[a-zA-Z0-9_-]+:.*?## ' $(MAKEFILE_LIST) | sort | awk -F ':.*?## ' '{printf "  %-16s %s\n", $$1, $$2}'

.venv/ready: pyproject.toml
	@echo "==> Python environment (.venv)"
	@test -x .venv/bin/uv || { python3 -m venv .venv && .venv/bin/pip install --quiet uv; }
	@.venv/bin/uv pip install --quiet --python .venv/bin/python --editable . --group dev
	@touch $@

.PHONY: venv
venv: .venv/ready ## make the Python environment

include $(wildcard tests/lab/lab.mk)

.PHONY: lint
lint: .venv/ready ## ruff, mypy, import contracts, shell and spelling
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy core cli cluster tests
	.venv/bin/lint-imports

.PHONY: generate
generate: .venv/ready ## regenerate the protobuf modules
	PATH="$(CURDIR)/.venv/bin:$$PATH" .venv/bin/python -m grpc_tools.protoc -I core --python_out=core --mypy_out=core core/tpd_core/proto/link.proto core/tpd_core/proto/control.proto
	PATH="$(CURDIR)/.venv/bin:$$PATH" .venv/bin/python -m grpc_tools.protoc -I core --grpc_python_out=core --mypy_grpc_out=core core/tpd_core/proto/control.proto
