"""The lab: a Docker engine and a Kubernetes cluster for tests and the demo, on a machine that has neither."""
