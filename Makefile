# `make` alone prints the targets. Variables: PYTHON=python3.12 (another interpreter for setup),
# DATA=folder (the demo's images), ARGS="-k beton" (passed to pytest).

PYTHON ?= python3
DATA ?=
ARGS ?=
BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format aot clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## make .venv and install everything (a second call does nothing)

$(READY): setup.py .ci/setup $(wildcard loaders/csrc/*)
	@bash .ci/setup "$(PYTHON)"

demo: $(READY) ## convert, pre-train a small i-MAE, look at the result; DATA=folder for your own images
	$(BIN)/python -m fastimae.demo $(if $(DATA),--data "$(DATA)")

# A process a core, up to 8 (each takes 1 to 2 GB); a file whole to one, for what its tests share.
test: $(READY) ## run the tests, on all cores
	$(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile $(ARGS)

lint: $(READY) ## check style and formatting, change nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY) ## fix what the linter can fix, format the rest
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

aot: $(READY) ## compile every Triton kernel for sm_80, sm_90 and sm_100; no GPU needed
	$(BIN)/python -m benchmarks.aot

clean: ## remove the environment, caches and the demo's output
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis build dist demo_output *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
