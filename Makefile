# `make help` lists the targets.
PYTHON_BIN := .venv/bin/python
PYTEST     := $(PYTHON_BIN) -m pytest

.DEFAULT_GOAL := help
.PHONY: help install demo test test-fast test-long test-engine test-gvisor test-kubernetes coverage fuzz lint bench bench-kubernetes docs format up down base-images images push lock chart proto unasync release clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: ## make .venv with everything; the CLI is .venv/bin/venvd
	@scripts/install

demo: install ## build a venv with pandas, start an HTTP backend from it and use it (Docker if it answers, else processes)
	@scripts/with-engine $(PYTHON_BIN) examples/demo.py

test: install ## the tests that a change needs; those for Docker if an engine answers (CI=true: it must)
	@scripts/with-engine scripts/test -m "not long"

test-long: install ## tests that are long by nature: load, churn, random kills, speed, demo, compose, guides
	@scripts/with-engine scripts/test -m long

test-engine: install ## only the tests of the Docker engine, for another version of Docker
	@scripts/with-engine scripts/test -m docker tests/engines tests/isolation tests/attacks

test-gvisor: install ## the suites with worker hosts under gVisor (runsc), which the engine must have (SUITES=tests/sdk, MARKS="not long")
	@VENVD_TEST_OCI_RUNTIME=runsc scripts/with-engine scripts/test -m "docker$(if $(MARKS), and ($(MARKS)))" \
		$(or $(SUITES),tests/gvisor tests/conformance tests/sdk tests/attacks tests/isolation tests/harm)

test-kubernetes: install ## the tests of the engine kubernetes and of the chart, on the cluster of KUBECONFIG (REGISTRY=…, REGISTRY_URL=…)
	@REGISTRY="$(REGISTRY)" REGISTRY_URL="$(REGISTRY_URL)" scripts/with-engine scripts/with-cluster scripts/test-kubernetes $(ARGS)

coverage: install ## the statements and branches that the tests reach, in each process, to .build/coverage/report.txt (ARGS="-m 'not long'")
	@$(PYTHON_BIN) scripts/coverage $(ARGS)

fuzz: install ## fuzz every framing with new inputs; saves what fails as a seed (MINUTES=10, ARGS="-k npy")
	@scripts/fuzz $(ARGS)

test-fast: install ## the quick tests of every package, in about a minute: without an engine or a package index
	@scripts/test packages services tests/test_*.py -m "not (slow or docker or network or long)"

lint: install ## ruff, mypy, stale locks, stubs and tables
	@scripts/lint

bench: ## figures beside their floors, as a table and as JSON (ARGS="--quick --only http --engine local"; --help)
	@scripts/with-engine scripts/bench $(ARGS)

bench-kubernetes: install ## figures of the engine kubernetes, on the cluster of KUBECONFIG (REGISTRY=…, REGISTRY_URL=…)
	@REGISTRY="$(REGISTRY)" REGISTRY_URL="$(REGISTRY_URL)" scripts/with-engine scripts/with-cluster scripts/bench --engine kubernetes $(ARGS)

docs: install ## build the documentation site in .build/docs/html (ARGS=--serve)
	@$(PYTHON_BIN) scripts/docs $(ARGS)

format: install ## ruff's formatter and its safe fixes
	@$(PYTHON_BIN) -m ruff format . && $(PYTHON_BIN) -m ruff check --fix .

up: install ## docker compose up, also on sites without an image registry
	@scripts/with-engine scripts/up

down: ## docker compose down, including the backends; the state stays in its volume
	@scripts/down

base-images: ## base images from Debian's packages, for sites without an image registry
	@deploy/base-images/make

images: install ## the images of controller and servers, for a cluster
	@scripts/with-engine $(PYTHON_BIN) scripts/images

push: install ## push them to a registry, and write their digests to a file (REGISTRY=registry.example.com/venvd, PYTHONS="3.12 3.13")
	@scripts/with-engine $(PYTHON_BIN) scripts/images push $(foreach version,$(PYTHONS),--python $(version)) "$(REGISTRY)"

lock: install ## resolve the stale requirements locks
	@$(PYTHON_BIN) scripts/lock

chart: install ## generate the table of the chart's README and the settings of its schema
	@$(PYTHON_BIN) scripts/chart

proto: install ## generate the gRPC stubs
	@$(PYTHON_BIN) scripts/proto

unasync: install ## generate the client's sync flavour
	@$(PYTHON_BIN) scripts/unasync

release: install ## sdists and wheels of all distributions in dist/, tried in an empty environment
	@scripts/release

clean: ## remove .venv and caches
	@rm -rf .venv .build dist .pytest_cache .mypy_cache .ruff_cache
