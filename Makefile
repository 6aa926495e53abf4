# Each target works on a fresh machine with Python >= 3.11 and make; nothing else is needed before any of them.
# The first Python that is new enough; PYTHON=... names another.
PYTHON ?= $(firstword $(foreach p,python3 python3.14 python3.13 python3.12 python3.11,$(shell \
	$(p) -c 'import sys; sys.version_info >= (3, 11) and print("$(p)")' 2>/dev/null)))
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help install demo scene test lint format bench lock clean

help:               ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## install streamd and its development tools into .venv

$(INSTALLED): pyproject.toml requirements.lock
	@test -n "$(PYTHON)" || { echo "streamd needs Python 3.11 or newer, and none is on the PATH; set PYTHON=..." >&2; exit 1; }
	@test -x $(BIN)/python || { echo "making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: install       ## run the daemon on twelve real servers, about a minute; KEEP=1 leaves the daemon running
	@$(BIN)/python scripts/demo.py $(if $(KEEP),--keep)

scene: install      ## run real agents against a daemon that is killed and started again, about three minutes
	@$(BIN)/python scripts/scene.py $(ARGS)

test: install       ## run the whole test suite on two cores; ARGS="tests/core -x" runs a part
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

lint: install       ## run ruff and mypy --strict
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: install     ## let ruff repair what it can
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

bench: install      ## measure the daemon on this machine
	@$(BIN)/python benchmarks/daemon.py $(ARGS)

lock: install       ## resolve the dependencies again into requirements.lock
	@$(BIN)/python -m pip install --quiet pip-tools
	@$(BIN)/pip-compile --quiet --extra dev --generate-hashes --strip-extras --no-emit-index-url --no-emit-find-links \
		--no-emit-trusted-host --no-emit-options --no-header --allow-unsafe --output-file requirements.lock pyproject.toml

clean:              ## remove what was built
	rm -rf $(VENV) .scene .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
