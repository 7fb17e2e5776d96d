SHELL := /bin/bash
.DEFAULT_GOAL := help
PY := .venv/bin/python
PYTEST := $(PY) -m pytest
# Host-side code that must also type-check where tpd runs on macOS and Windows.
PORTABLE := $(filter-out cli/tpd/daemon %/__pycache__,$(wildcard cli/tpd/*)) core/tpd_core/errors.py core/tpd_core/kube

.PHONY: help
help: ## this list
	@grep -hE '^[a-zA-Z0-9_-]+:.*?## ' $(MAKEFILE_LIST) | sort | awk -F ':.*?## ' '{printf "  %-16s %s\n", $$1, $$2}'

.venv/ready: pyproject.toml constraints.txt
	@echo "==> Python environment (.venv)"
	@test -x .venv/bin/uv || { python3 -m venv .venv && .venv/bin/pip install --quiet uv; }
	@.venv/bin/uv pip install --quiet --compile-bytecode --constraint constraints.txt --python .venv/bin/python --editable . --group dev
	@touch $@

.PHONY: venv
venv: .venv/ready ## make the Python environment

include $(wildcard tests/lab/lab.mk)

.PHONY: lint
lint: .venv/ready ## ruff, mypy, import contracts, shell, spelling
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy core cli cluster tests
	.venv/bin/mypy --platform darwin $(PORTABLE)
	.venv/bin/mypy --platform win32 $(PORTABLE)
	.venv/bin/lint-imports
	.venv/bin/shellcheck $$(git ls-files '*.sh' .ci/run)
	.venv/bin/codespell $$(git ls-files '*.md' '*.py' '*.yaml' '*.proto' Makefile)
	.venv/bin/towncrier build --draft --version next >/dev/null

.PHONY: unit
unit: .venv/ready ## sans-IO cores and pure plans
	$(PYTEST) tests/unit -n 2

.PHONY: net
net: .venv/ready lab-tools ## kernel parts, in network namespaces (root)
	$(PYTEST) tests/net

.PHONY: e2e
e2e: ## behaviour on the lab's engines and cluster
	$(MAKE) lab-up ROOTLESS=1
	$(MAKE) lab-images
	$(PYTEST) tests/e2e

.PHONY: test
test: lint unit net e2e ## everything, as continuous integration runs it

.PHONY: demo
demo: .venv/ready ## the main job, narrated (CONTEXT=name: on a cluster of yours; KEEP=1: leave it running)
ifdef CONTEXT
	@PATH="$(CURDIR)/.venv/bin:$$PATH" $(PY) compose/examples/shop/demo.py --context "$(CONTEXT)"
else
	@$(MAKE) --no-print-directory lab-up lab-images
	@eval "$$($(LAB) env)" && PATH="$(CURDIR)/.venv/bin:$$PATH" $(PY) compose/examples/shop/demo.py
endif

.PHONY: generate
generate: .venv/ready ## regenerate the protobuf modules
	PATH="$(CURDIR)/.venv/bin:$$PATH" $(PY) -m grpc_tools.protoc -I core --python_out=core --mypy_out=core core/tpd_core/proto/link.proto core/tpd_core/proto/control.proto
	PATH="$(CURDIR)/.venv/bin:$$PATH" $(PY) -m grpc_tools.protoc -I core --grpc_python_out=core --mypy_grpc_out=core core/tpd_core/proto/control.proto

.PHONY: docs
docs: .venv/ready ## regenerate docs/reference.md
	PYTHONPATH=. $(PY) -m docs.generate
