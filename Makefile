# Everything a person or CI runs. Set-up writes to stderr, so that stdout belongs to the program:
# `make demo ARGS="--json"` prints one JSON object and nothing else.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
export PYTHON
ARGS ?=
NAME ?=
BIN := .venv/bin

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: demo test lint bench lock clean help venv venv-test system-packages node-peers

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: venv ## the guided demonstration; options in ARGS, e.g. ARGS="--json"
	@$(BIN)/gatepost demo $(ARGS)

test: system-packages node-peers lint ## lint and all tests, with everything they need installed first
	@$(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)

lint: venv-test ## ruff, mypy and the import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

bench: venv-test ## the benchmarks one after the other, or one with NAME=; options in ARGS
	@for name in $(or $(NAME),$(notdir $(basename $(filter-out bench/_%,$(wildcard bench/*.py))))); do \
		$(BIN)/python -m "bench.$$name" $(ARGS); \
	done

lock: ## write the locks anew; ARGS="--upgrade" takes the newest of everything
	@tools/lock $(ARGS)

clean: ## remove the environment and all caches
	@rm -rf .venv tests/node/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

venv: ## .venv/ with gatepost and what the demonstration needs
	@tools/venv run

venv-test:
	@tools/venv test

system-packages:
	@tools/system-packages

# An OPC UA client that isn't ours, for tests/gateway.
node-peers:
	@tools/node-peers
