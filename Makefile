# `make demo` and `make test` need nothing beforehand but make, a network and, for what is not
# installed yet, root or sudo.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.SUFFIXES:

BIN := .venv/bin
READY := .venv/.ready

.PHONY: help demo test check format bench clean programs venv

help: ## show this help
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: venv ## set up, execute notebooks/quickstart.ipynb and print it with its outputs
	$(BIN)/python scripts/show_notebook.py notebooks/quickstart.ipynb

test: venv programs ## set up and run the tests (as root: all of them)
	$(BIN)/python -m pytest $(ARGS)

check: venv ## format, lint, types, and which room may import which
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: venv ## format the code and mend what the linter can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: venv programs ## measure starts and pulls beside docker, runc and bubblewrap
	PYTHONPATH=tests $(BIN)/python -m benchmarks $(ARGS)

clean: ## remove what the other commands made in this tree
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

programs: # what the tests talk to
	@scripts/install-programs mmdebstrap=mmdebstrap umoci=umoci skopeo=skopeo \
	    docker-registry=docker-registry

venv: $(READY)

$(READY): pyproject.toml
	@scripts/find-python >/dev/null 2>&1 || scripts/install-programs python3-venv
	test -x $(BIN)/python || "$$(scripts/find-python)" -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable . --group dev
	@touch $@
