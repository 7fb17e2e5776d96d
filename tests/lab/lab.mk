# Engine and cluster for tests and the demo; see tests/lab/README.md.
LAB := $(PY) -m tests.lab

.PHONY: lab-up lab-down lab-status lab-reset lab-purge lab-images lab-tools
lab-up: .venv/ready ## engine, cluster and sample app (ROOTLESS=1: also a rootless engine; K8S_VERSION=v1.N.P)
	@$(LAB) up $(if $(filter-out 0,$(ROOTLESS)),--rootless)

lab-down: .venv/ready ## stop cluster and engine
	@$(LAB) down

lab-status: .venv/ready ## what of the lab runs
	@$(LAB) status

lab-reset: .venv/ready ## a clean cluster, caches kept
	@$(LAB) reset

lab-purge: .venv/ready ## remove the lab, as if it had never been installed
	@$(LAB) purge

lab-tools: .venv/ready ## the programs that the namespace tests run on the host
	@$(LAB) tools

lab-images: .venv/ready ## build tpd's images that changed and load them (NAMES="agent daemon")
	@$(LAB) images $(or $(NAMES),product)
