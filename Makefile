# frys: what one does with a checkout. Plain `make` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
# A stamp per lock file: a second run installs nothing.
RUNTIME := .venv/.installed-runtime
DEV := .venv/.installed-dev
FUZZ := .venv/.installed-fuzz
# An empty one forbids nothing: without bytecode each node that a test starts would compile all of ours.
export PYTHONDONTWRITEBYTECODE :=
# Processes that share a batch of seeds.
SIM_JOBS ?= 2
# Kills, cuts and pauses of a chaos run.
EVENTS ?= 100
# Inputs of each fuzz harness, and its longest time.
FUZZ_INPUTS ?= 250000
FUZZ_SECONDS ?= 300
# Inputs of all harnesses together below which the run has failed.
FUZZ_LEAST ?= 1000000
# The harnesses of what anybody with the group key can send to the membership of a node, and the longest time of each.
FUZZ_MEMBERSHIP = packets syncs rumours catch_up
FUZZ_MEMBERSHIP_SECONDS ?= 5000

.PHONY: help demo test check sim chaos-data verify fuzz fuzz-membership bench s3 peers clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(RUNTIME) ## install the node and show a live cluster doing real work (KEEP=1 leaves it up)
	@$(BIN)/frys-node demo

test: $(DEV) ## install what is missing and run every check and test
	@$(BIN)/python .ci/gate.py test

check: $(DEV) ## the static half: lint, format, layers, tidy, types
	@$(BIN)/python .ci/gate.py check

sim: $(RUNTIME) ## the long simulations: every scenario at its full size, one table over all; interrupted, it goes on
	@$(BIN)/frys-node sim --all --jobs $(SIM_JOBS) --state .cache/sim

chaos-data: $(RUNTIME) ## nodes killed, cut off, paused, joining and leaving under quorum writes, then the plug twice (EVENTS=100)
	@$(BIN)/python -m chaos.data --events $(EVENTS)

verify: $(DEV) $(FUZZ) ## known answers, mutants, downgrades, replays, models, machines, decoders under atheris and a flood, with counts
	@$(BIN)/python tests/verify/verify.py

fuzz: $(FUZZ) ## fuzz the decoders and the machines behind them under atheris, up to 70 minutes on one core
	@$(BIN)/python tests/fuzz/fuzz.py --inputs $(FUZZ_INPUTS) --seconds $(FUZZ_SECONDS) --least $(FUZZ_LEAST)

fuzz-membership: $(FUZZ) ## a million inputs for the decoders and the machine of membership alone, an hour on one core
	@$(BIN)/python tests/fuzz/fuzz.py $(FUZZ_MEMBERSHIP) --inputs 250000 --seconds $(FUZZ_MEMBERSHIP_SECONDS) --least 1000000

bench: $(RUNTIME) ## run the benchmark scenarios beside their peers
	@for name in startup idle bus request commit; do $(BIN)/frys-node bench $$name; done

s3: ## bring the S3-speaking server that the tests of object stores want into .cache
	@.ci/s3

peers: ## bring what benchmarks are compared with (serf, redis) into .cache
	@.ci/peers

clean: ## remove everything that make has made
	@rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUNTIME): requirements-runtime.lock pyproject.toml
	@.ci/install requirements-runtime.lock
	@touch $@

$(DEV): requirements.lock pyproject.toml
	@.ci/install requirements.lock
	@touch $@ $(RUNTIME)

$(FUZZ): requirements-fuzz.lock pyproject.toml
	@.ci/install requirements-fuzz.lock
	@touch $@ $(RUNTIME)
