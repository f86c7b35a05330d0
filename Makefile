# Every command of the project; `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

-include .env
export

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SOURCES := contract/src services/*/src
# Tests that want the whole machine: each starts a vLLM server, or trains on all cores.
ALONE := tests/e2e tests/multinode

.PHONY: help install demo check test test-containers test-cluster test-full images bench bench-data bench-merge bench-swap bench-serve bench-api lock schemas rules faq clean

help: ## List the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

install: $(INSTALLED) ## Set up a fresh clone: system library, virtual environment, pinned packages

$(INSTALLED): requirements/install requirements/*.txt contract/pyproject.toml services/*/pyproject.toml
	@requirements/install "$(PYTHON)" "$(VENV)"
	@touch $@

demo: install ## Train, fuse, serve and ask the demo model; KEEP=1 leaves the server up
	@$(BIN)/python examples/hone-faq/demo.py $(if $(KEEP),--keep)

check: install ## Lint, types, unit and boundary tests: under two minutes, for every commit
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary $(SOURCES) examples bench
	@$(BIN)/python -m pytest -q -n auto --dist loadfile -m "not chain and not full and not containers" contract services tests

test: check ## Everything that CI runs: check, the real chain, and the containers where a Docker engine runs
	@$(BIN)/python -m pytest -q -n auto --dist loadfile -m "chain and not full" $(addprefix --ignore=,$(ALONE))
	@$(BIN)/python -m pytest -q -m "chain and not full" $(ALONE)
	@$(BIN)/python -m pytest -q -m "containers and not full"

test-containers: install ## Build the images and run compose.yaml for real; starts an engine where there is none (root)
	@HONE_TEST_ENGINE=start $(BIN)/python -m pytest -q -m "containers and not full"

test-cluster: install ## Drill Hone on the cluster that KUBECONFIG names; DRILL="--images PREFIX:TAG …"
	@$(BIN)/python -m pytest -q -s -m cluster tests/cluster $(DRILL)

test-full: test test-containers ## Longer drills as well
	@HONE_TEST_ENGINE=start $(BIN)/python -m pytest -q -m full

images: ## Build the container images for CPUs
	@docker compose build
	@docker compose --profile api build base

bench: install ## Measure training against TRL's defaults, in turns on this machine
	@$(BIN)/python bench/train.py

bench-data: install ## Measure the preparation of 1 GB of data against a bare pass of the parser
	@$(BIN)/python bench/prepare.py

bench-merge: install ## Measure merging against PEFT and against cp
	@$(BIN)/python bench/merge.py

bench-swap: install ## Measure swapping versions under load against restarts
	@$(BIN)/python bench/swap.py

bench-serve: install ## Measure the server against bare vLLM, in turns
	@$(BIN)/python bench/serve.py

bench-api: install ## Measure the api with ten thousand jobs, and streams through it against direct ones
	@$(BIN)/python bench/api.py

lock: ## Write the pinned lists in requirements/ anew
	@$(PYTHON) -m venv build/lock
	@build/lock/bin/pip install --quiet packaging
	@build/lock/bin/python requirements/lock.py

schemas: install ## Write contract/schema/*.json anew
	@$(BIN)/python -m hone_contract.schema contract/schema

rules: install ## Write the Prometheus operator's rules anew from rules.yaml
	@$(BIN)/python k8s/components/monitoring/write_rule.py

faq: install ## Write the demo's training files anew from facts.yaml
	@$(BIN)/python examples/hone-faq/write.py

clean: ## Remove what install, demo and tests made
	@rm -rf $(VENV) store build .pytest_cache .mypy_cache .ruff_cache
