# Each target works on a fresh machine with Python >= 3.11 and make; nothing else is needed before any of them.
# The first Python that is new enough; PYTHON=... names another.
PYTHON ?= $(firstword $(foreach p,python3 python3.14 python3.13 python3.12 python3.11,$(shell \
	$(p) -c 'import sys; sys.version_info >= (3, 11) and print("$(p)")' 2>/dev/null)))
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PAGE := streamd/web/page

.PHONY: help install demo scene cluster-demo chaos interface test tensorrt lint format bench web screenshots lock sbom audit wheel image clean

help:               ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## install streamd and its development tools into .venv

$(INSTALLED): pyproject.toml requirements.lock
	@test -n "$(PYTHON)" || { echo "streamd needs Python 3.11 or newer, and none is on the PATH; set PYTHON=..." >&2; exit 1; }
	@test -x $(BIN)/python || { echo "making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: install       ## run the daemon on twelve real servers, about a minute; KEEP=1 leaves it and its page running
	@$(BIN)/streamd demo $(if $(KEEP),--keep)

scene: install      ## run real agents against a daemon that is killed and started again, about three minutes
	@$(BIN)/python scripts/scene.py $(ARGS)

cluster-demo: install ## run four daemons that share a fleet, on this machine, through faults; about two minutes; needs nats-server
	@$(BIN)/python -m scripts.cluster_demo $(ARGS)

chaos: install      ## load, faults and checks at once against a real daemon, half an hour; ARGS="--minutes 5 --seed 2"
	@$(BIN)/python -m benchmarks.chaos $(ARGS)

interface: install  ## call every route as its OpenAPI document describes it, five minutes; ARGS="--examples 50"
	@$(BIN)/python -m tests.support.interface_check $(ARGS)

# Bytecode is kept, whatever the environment says: else each worker, and each of the hundreds of processes that tests
# start, compiles everything anew.
test: install       ## run the whole test suite on two cores; ARGS="tests/core -x" runs a part
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

tensorrt: install   ## build every network that ships with TensorRT 11, without a GPU; fetches 170 MB once
	@$(BIN)/python scripts/current_tensorrt.py .trt11
	@STREAMD_TRT11=.trt11 $(BIN)/python -m pytest tests/tools/engine/plan/test_current_tensorrt.py $(ARGS)

lint: install       ## run ruff and mypy --strict
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: install     ## let ruff repair what it can
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

bench: install      ## measure the daemon on this machine
	@$(BIN)/python benchmarks/daemon.py $(ARGS)

# The built page is committed, so only who changes its sources needs npm. OUT=... writes elsewhere.
screenshots: install ## take the pictures of the page for the documents, from the recorded fleet; needs Chromium
	@$(BIN)/python -m scripts.take_screenshots $(ARGS)

web:                ## check, test and build the page from the packages of its lock; needs Node.js 20.19 or newer
	@cd $(PAGE) && npm ci --include=dev --no-progress && npm run check && npm run test && \
		npm run build -- --outDir $(abspath $(or $(OUT),$(PAGE)/../assets)) --emptyOutDir

lock: install       ## resolve the dependencies again into requirements.lock
	@$(BIN)/python -m pip install --quiet pip-tools
	@$(BIN)/pip-compile --quiet --extra dev --generate-hashes --strip-extras --no-emit-index-url --no-emit-find-links \
		--no-emit-trusted-host --no-emit-options --no-header --allow-unsafe --output-file requirements.lock pyproject.toml

sbom: install       ## list the licences of the dependencies, and write a bill of materials into dist
	@$(BIN)/python scripts/supply.py --bill dist/streamd.cdx.json

audit:              ## check every locked package against the vulnerability database of PyPI; needs the network
	@test -x .audit/bin/pip-audit || { $(PYTHON) -m venv .audit && .audit/bin/python -m pip install --quiet pip-audit; }
	@.audit/bin/pip-audit --strict --require-hashes --disable-pip -r requirements.lock

wheel: install      ## build a wheel and an sdist into dist
	@rm -rf build  # modules that were removed since the last build would still be in it
	@$(BIN)/python -c "from setuptools import build_meta as b; print(b.build_wheel('dist'), b.build_sdist('dist'))"
	@$(BIN)/python scripts/supply.py --lock dist/runtime.lock

image: wheel        ## build the container images; needs docker or another engine, ENGINE=podman names it
	@$(or $(ENGINE),docker) build --target cpu --tag streamd:cpu --file Containerfile .
	@$(or $(ENGINE),docker) build --target gpu --tag streamd:gpu --file Containerfile .

clean:              ## remove what was built
	rm -rf $(VENV) .audit .trt11 build dist .scene .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info $(PAGE)/node_modules
