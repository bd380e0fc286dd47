# Two commands do all the set-up: `make demo` and `make test`. Both need Python 3.11+ and a C++ compiler.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?=
PYTHONS := $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python)
COMPILERS := $(sort $(CXX) g++ clang++ c++)
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: help demo install test test-all bench lint format clean tools
.DEFAULT_GOAL := help

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name what; do \
	  printf '  make %-10s %s\n' "$$name" "$$what"; done

demo: $(VENV)/.base  ## the main job on the model inside the package; leaves out/demo/report.html
	$(BIN)/espalier demo -o out/demo

install: $(VENV)/.all  ## .venv with all extras, for development

test: $(VENV)/.all  ## every test that fits 20 minutes on 2 cores
	$(PYTEST) -n 2 --dist loadgroup -m "not slow and not gpu and not bench"

test-all: $(VENV)/.all  ## every test this machine can run
	$(PYTEST) -n 2 --dist loadgroup -m "not bench"

bench: $(VENV)/.all  ## the encoder against every other runtime (an idle machine is needed for true figures)
	$(BIN)/python benchmarks/encoder_latency.py

lint: $(VENV)/.all  ## ruff and basedpyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

format: $(VENV)/.all  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove .venv and everything built
	rm -rf $(VENV) build dist out *.egg-info .pytest_cache .ruff_cache .hypothesis

# A stamp that is older than pyproject.toml means that something has to be installed (again).
$(VENV)/.base: pyproject.toml $(VENV)/.made
	@echo "installing espalier into $(VENV) (a few minutes the first time)" >&2
	@$(PIP_INSTALL) -e .
	@touch $@

$(VENV)/.all: pyproject.toml $(VENV)/.made
	@echo "installing espalier and its development tools into $(VENV) (several minutes the first time)" >&2
	@$(PIP_INSTALL) -e ".[dev]"
	@touch $(VENV)/.base $@

$(VENV)/.made: | tools
	@python="$$($(FIND_PYTHON))" && "$$python" -m venv $(VENV)
	@touch $@

# One line for each tool that is missing, and what installs it.
FIND_PYTHON = for p in $(PYTHONS); do \
	  if "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo "$$p"; exit 0; fi; \
	done; exit 1

tools:
	@python="$$($(FIND_PYTHON))" || { \
	  echo "error: no Python 3.11 or newer found (looked for $(PYTHONS))"; \
	  echo "hint: sudo apt-get install python3 python3-venv, or make PYTHON=/path/to/python3.11"; exit 1; } >&2; \
	"$$python" -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "error: $$python cannot make virtual environments: its venv module is not installed"; \
	  echo "hint: sudo apt-get install python3-venv"; exit 1; } >&2
	@for c in $(COMPILERS); do command -v "$$c" >/dev/null && exit 0; done; { \
	  echo "error: no C++ compiler found (looked for $(COMPILERS)); it links what TVM compiles"; \
	  echo "hint: sudo apt-get install g++"; exit 1; } >&2
