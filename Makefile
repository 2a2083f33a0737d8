# Every target sets up what it needs: a virtual environment in .venv, from the lock file.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUN_DIR ?= examples/quickstart
RUN_FLAGS ?=
PYTEST_FLAGS ?=
BENCH_FLAGS ?=
WORKERS ?= 2
FUZZ_SECONDS ?= 120

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup run test cov fuzz lint format crds bench kind e2e lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv with everything in it

$(STAMP): requirements.lock pyproject.toml
	@PYTHON="$(PYTHON)" sh .ci/venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

run: $(STAMP) ## Start a mail tier from examples/quickstart (RUN_DIR=..., RUN_FLAGS=...)
	$(BIN)/postroad run $(RUN_DIR) $(RUN_FLAGS)

test: $(STAMP) ## Run every test (PYTEST_FLAGS=...)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(PYTEST_FLAGS)

cov: $(STAMP) ## The same with coverage, and the lines that no test reaches in htmlcov/
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --cov --cov-report=term:skip-covered --cov-report=html $(PYTEST_FLAGS)

fuzz: $(STAMP) ## Fuzz addresses and headers (FUZZ_SECONDS=...; needs atheris)
	@$(BIN)/python -c "import atheris" || { echo "make fuzz needs atheris: $(BIN)/pip install atheris" >&2; exit 1; }
	$(BIN)/python tests/fuzz/fuzz_policy.py -max_total_time=$(FUZZ_SECONDS) -max_len=4096

lint: $(STAMP) ## Check style, types and the layers of the imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## Put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

crds: $(STAMP) ## Write crds/*.yaml and docs/resources.md from the resource models
	$(BIN)/postroad crds --output-dir crds --reference docs/resources.md

bench: $(STAMP) ## Compare with Postfix on this machine (BENCH_FLAGS=...)
	$(BIN)/python -m tests.bench.compare $(BENCH_FLAGS)

kind: ## From nothing to a delivered message on a kind cluster (needs Docker)
	@sh .ci/kind check
	@$(MAKE) --no-print-directory setup
	@sh .ci/kind up

e2e: kind ## The end-to-end tests on that cluster (needs Docker)
	POSTROAD_KIND_CONTEXT=kind-postroad $(BIN)/python -m pytest tests/e2e/test_kind_*.py $(PYTEST_FLAGS)

lock: ## Resolve the dependencies into the lock files (UPGRADE=1 takes the newest)
	@sh .ci/lock $(if $(UPGRADE),--upgrade)

clean: ## Remove what the other targets made, the environment included
	rm -rf $(VENV) .postroad .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	rm -rf htmlcov .coverage .coverage.* dist build
	find . -name __pycache__ -prune -exec rm -rf {} +
