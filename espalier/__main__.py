"""`python -m espalier`."""

from __future__ import annotations

from espalier.cli.main import main

main()
