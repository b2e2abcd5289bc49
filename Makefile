# `make` alone prints the targets. Variables: PYTHON=python3.12 (another interpreter for setup),
# DATA=... (images for the demo, a .beton for bench), ARGS="-k beton" (passed to pytest), ARCH=90
# (for aot: one architecture).

PYTHON ?= python3
DATA ?=
ARGS ?=
ARCH ?=
BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help setup wheel demo bench test lint format tree docs gallery notebooks aot clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## make .venv and install everything (a second call does nothing)

$(READY): setup.py pyproject.toml .ci/setup $(wildcard loaders/csrc/*)
	@bash .ci/setup "$(PYTHON)"

wheel: $(READY) ## a wheel for every Python, in dist/, with all that the engine needs inside
	rm -rf build/wheel
	FASTIMAE_ENGINE=portable $(BIN)/python -m pip wheel -q --no-deps -w build/wheel .
	PATH="$(CURDIR)/$(BIN):$$PATH" auditwheel repair -w dist build/wheel/*.whl

demo: $(READY) ## convert, pre-train a small i-MAE, look at the result; DATA=folder for your own images
	$(BIN)/python -m fastimae.demo $(if $(DATA),--data "$(DATA)")

bench: $(READY) ## how fast is this machine? a few minutes; DATA=F.beton for your own images
	$(BIN)/python -m benchmarks $(if $(DATA),--data "$(DATA)")

# One process per core, up to 8 (each takes 1 to 2 GB). All tests of a file run in one, as they share
# fixtures. The order is that of tests/conftest.py: long files first, not those of many tests.
test: $(READY) ## run the tests, on all cores
	$(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(READY) ## check style and formatting, change nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY) ## fix what the linter can fix, format the rest
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

tree: ## write docs/tree.md from the first lines of the files
	$(PYTHON) tests/tree.py

docs: $(READY) ## build the site of these pages, build/site/index.html; it needs no network
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "build/site/index.html"

gallery: $(READY) ## run the commands of docs/gallery.md, copy their pictures; half an hour
	$(BIN)/python -m benchmarks.gallery

notebooks: $(READY) ## run the notebooks of docs/ on a run of the demo, keep their outputs
	$(BIN)/python tests/notebooks.py

aot: $(READY) ## compile every Triton kernel for sm_80, sm_90 and sm_100; no GPU needed
	$(BIN)/python -m tests.aot $(if $(ARCH),--arch $(ARCH))

clean: ## remove the environment, caches and the output of demo and bench
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis build dist demo_output *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
