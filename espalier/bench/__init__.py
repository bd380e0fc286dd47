"""Espalier against the runtimes a user would pick instead, timed in one run."""
