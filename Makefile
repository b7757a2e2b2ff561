# `make demo` and `make test` need nothing beforehand but make, a network and, for what is not
# installed yet, root or sudo.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.SUFFIXES:

BIN := .venv/bin
READY := .venv/.ready

.PHONY: help demo test test-vm counts attacks soak fuzz check format bench peers conformance clean programs venv

help: ## show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: venv ## set up, execute notebooks/quickstart.ipynb and print it with its outputs
	$(BIN)/python scripts/show_notebook.py notebooks/quickstart.ipynb

test: venv programs ## set up and run the tests (as root: all of them)
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

test-vm: venv ## run selected tests in User Mode Linux: cgroup v2, as root and as two ordinary users
	@test "$$(uname -m)" != x86_64 || scripts/install-programs linux.uml=user-mode-linux \
	    mke2fs=e2fsprogs mmdebstrap=mmdebstrap 'cc=gcc libc6-dev'
	$(BIN)/python scripts/test-vm $(ARGS)
	@$(BIN)/python scripts/count-table

counts: ## write what the last `make test ARGS=--junit-xml=build/test/here.xml` and test-vm came to into docs
	$(BIN)/python scripts/count-table --write

attacks: venv programs ## run the attacks, and write their results into docs/security.md
	CELLBLOCK_TRIES=1000 $(BIN)/python scripts/attack-table $(ARGS)

soak: venv programs ## kills, many processes and many runs at length (minutes)
	CELLBLOCK_PROCESSES=20 CELLBLOCK_OPERATIONS=200 CELLBLOCK_CRASHES=500 CELLBLOCK_RUNS=1000 \
	    CELLBLOCK_AT_ONCE=200 CELLBLOCK_POINTS=40 CELLBLOCK_LOSSES=100 CELLBLOCK_PRUNING_SECONDS=60 \
	    $(BIN)/python -m pytest -o timeout=3600 tests/integration/test_prune.py \
	    tests/integration/test_reliability.py tests/integration/test_kill_points.py \
	    tests/integration/test_leaks.py tests/integration/test_power_loss.py $(ARGS)

fuzz: venv ## random references, manifests, frames and archives (ten minutes)
	CELLBLOCK_EXAMPLES=10000 $(BIN)/python -m pytest -o timeout=0 -m hypothesis --hypothesis-profile=fuzz $(ARGS)

check: venv ## format, lint, types, and which room may import which
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: venv ## format the code and mend what the linter can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: venv programs ## measure starts, pulls and images beside docker, runc, bubblewrap and kern
	@scripts/install-programs bwrap=bubblewrap
	@test -x .venv/peers/bin/kern || $(BIN)/python -m pip install --quiet --target .venv/peers \
	    kern-sandbox || echo 'kern-sandbox cannot be installed here'
	PYTHONPATH=tests $(BIN)/python -m benchmarks $(ARGS)

peers: venv programs ## attack Docker's containers too; writes the results into docs/security.md
	PYTHONPATH=tests $(BIN)/python -m benchmarks.attacks_on_docker

conformance: venv programs ## run the suites of ipykernel, nbclient, papermill on local kernels and in containers
	test -x .venv/conformance/bin/python || $(BIN)/python -m venv .venv/conformance
	.venv/conformance/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	.venv/conformance/bin/python -m pip install --quiet --editable . --group conformance
	PYTHONPATH=tests .venv/conformance/bin/python scripts/conformance $(ARGS)

clean: ## remove what the other commands made in this tree
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

programs: # what the tests talk to
	@scripts/install-programs mmdebstrap=mmdebstrap umoci=umoci skopeo=skopeo \
	    docker-registry=docker-registry dockerd=docker.io htpasswd=apache2-utils strace=strace newuidmap=uidmap

venv: $(READY)

$(READY): pyproject.toml
	@scripts/find-python >/dev/null 2>&1 || scripts/install-programs python3-venv
	test -x $(BIN)/python || "$$(scripts/find-python)" -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable . --group dev
	@touch $@
