"""Observability that every long-running part shares."""
