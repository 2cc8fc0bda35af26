# Two commands do everything: `make quickstart` and `make test`. Environments are made on first use and kept.
PYTHON ?= python3
BIN := .venv/bin
# the environment is made again when what it is made from changes
READY := .venv/.ready-$(shell cat constraints.txt pyproject.toml | cksum | cut -d' ' -f1)
FAST := tests/unit -m "not slow and not full"
# vLLM and torch read these; the processes of a run set their own
export TOKENIZERS_PARALLELISM = false

.PHONY: help environment server quickstart test test-fast test-all bench lint clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

$(READY):
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --no-compile --no-deps --requirement constraints.txt
	$(BIN)/pip install --quiet --no-deps --editable .
	$(BIN)/python -m compileall -q -j 0 .venv/lib > /dev/null || true  # pip would do it on one core
	@touch $@

environment: $(READY) ## the training environment, .venv

server: $(READY) ## Argilla's own environment, beside the user's data
	@$(BIN)/align server install > /dev/null

quickstart: server ## three rounds of recipes/support-desk with simulated annotators, and a report
	@test -f recipes/support-desk/data/prompts.jsonl || $(BIN)/python recipes/support-desk/world.py
	$(BIN)/align run recipes/support-desk/recipe.yaml

# files in the order of their folders: the short ones come last, so that no worker is left with a long one at the end
test: server ## all tests but the longest, three files at a time
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not full" --numprocesses 3 --dist loadfile --no-loadscope-reorder

test-fast: $(READY) ## the tests that need seconds
	$(BIN)/python -m pytest $(FAST)

test-all: server ## every test: many kills, shuffled labels, the whole quick start
	$(BIN)/python -m pytest

bench: server ## every benchmark in full; `SHORT=--short` for a glimpse
	@for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python $$file $(SHORT) || exit 1; done

lint: $(READY) ## ruff, types, and imports that go one way
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean: ## remove the training environment and caches; runs and labels stay
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
