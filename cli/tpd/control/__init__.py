"""Talking to the daemon in its container."""
