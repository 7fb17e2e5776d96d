"""Lighthouse Tea: a small shop of three services, made to show where each answer comes from."""
