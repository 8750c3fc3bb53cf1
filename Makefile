# `make help` lists the targets.
PYTHON_BIN := .venv/bin/python
PYTEST     := $(PYTHON_BIN) -m pytest

.DEFAULT_GOAL := help
.PHONY: help install demo test test-fast test-long test-engine lint bench format up down base-images lock proto release clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: ## make .venv with everything, the CLI at .venv/bin/venvd
	@scripts/install

demo: install ## the main job, shown: a venv with pandas becomes a running HTTP backend (Docker if there, else processes)
	@scripts/with-engine $(PYTHON_BIN) examples/demo.py

test: install ## what a change needs; the tests of Docker where an engine answers (CI=true: it must)
	@scripts/with-engine scripts/test -m "not long"

test-long: install ## what is long by nature: load, churn, kills at random, gross losses of speed
	@scripts/with-engine scripts/test -m long

test-engine: install ## the suites of the Docker engine alone, for another version of it
	@scripts/with-engine scripts/test -m docker tests/engines tests/isolation tests/preload tests/e2e

test-fast: install ## the tests of the packages alone: no engine, no package index
	@$(PYTEST) packages services -m "not docker and not network" -n 2

lint: install ## ruff, mypy, stale locks and stubs
	@scripts/lint

bench: ## figures beside their floors, as a table and as JSON (ARGS="--quick --only http --engine local"; --help)
	@scripts/with-engine scripts/bench $(ARGS)

format: install ## ruff's formatter and its safe fixes
	@$(PYTHON_BIN) -m ruff format . && $(PYTHON_BIN) -m ruff check --fix .

up: install ## docker compose up, with what a site without an image registry needs
	@scripts/with-engine scripts/up

down: ## docker compose down, backends and all; the state stays in its volume
	@scripts/down

base-images: ## base images from Debian's packages, for sites without an image registry
	@deploy/base-images/make

lock: install ## lock every requirements file anew
	@$(PYTHON_BIN) scripts/lock

proto: install ## generate the gRPC stubs anew
	@$(PYTHON_BIN) scripts/proto

release: install ## sdist and wheels of every distribution in dist/, tried in an empty environment
	@scripts/release

clean: ## remove .venv and caches
	@rm -rf .venv .build dist .pytest_cache .mypy_cache .ruff_cache
