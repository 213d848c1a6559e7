# What a fresh machine needs: git, make and Python 3.11+. Everything else is installed into .venv.
PYTHON ?= python3
# The CPU build of torch, where a folder of wheels lies beside the checkout; an exported PIP_FIND_LINKS comes first. Without
# either, the default index serves torch with its GPU libraries (gigabytes): see README, "Choosing the CPU build".
export PIP_FIND_LINKS ?= $(realpath $(wildcard ../shared/wheels))
export PIP_DISABLE_PIP_VERSION_CHECK = 1
BIN := .venv/bin
DEMO_FLAGS := $(if $(KEEP),--keep) $(if $(PORT),--port $(PORT)) $(if $(KAFKA_PORT),--kafka-port $(KAFKA_PORT))

.PHONY: help install demo test test-extras test-faults fuzz simulate lint docs bench clean

help:            ## this list
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

install: .venv/installed  ## .venv with everything that runs, tests and checks

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[all,test,lint]'
	$(BIN)/pip install --quiet --no-deps recbole==1.2.1    # MovieLens-100K lies in it; its own needs are not ours
	@touch $@

demo: .venv/installed  ## the main job on real input: KEEP=1 stays up, PORT= and KAFKA_PORT= choose ports
	@$(BIN)/forebay demo $(DEMO_FLAGS)

# The tests start hundreds of processes, which would compile our modules anew where this is set.
test: export PYTHONDONTWRITEBYTECODE =
test: .venv/installed  ## every test, those against a real Kafka included, in JOBS=2 processes
	$(BIN)/python -m pytest -n $(or $(JOBS),2) $(PYTEST_FLAGS)

test-extras: .venv/installed  ## the wheel with each extra in an environment of its own: needs a package index
	$(BIN)/python -m pytest -m extras tests/test_environments.py $(PYTEST_FLAGS)

test-faults: .venv/installed  ## kills, pauses, freezes, cuts and dead brokers in full: an hour and a half
	$(BIN)/python -m pytest tests/faults -m "full or not full" $(PYTEST_FLAGS)

fuzz: .venv/installed  ## 100,000 hostile requests against a server, and a million odd records against both readers of the Intake
	$(BIN)/python -m pytest tests/retrieval/test_hostile.py tests/streams/intake/test_reader.py -m "full or not full" -s $(PYTEST_FLAGS)

simulate: .venv/installed  ## orders of events drawn by SEEDS=1000 seeds, or those of one SEED= again
	SEEDS=$(or $(SEEDS),1000) SEED=$(SEED) $(BIN)/python -m pytest tests/simulation/test_simulation.py $(PYTEST_FLAGS)

lint: .venv/installed  ## ruff, mypy strict, import order
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/docs  ## the documentation, into site/: a warning ends it, and nothing is fetched
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

.venv/docs: .venv/installed
	$(BIN)/pip install --quiet --no-warn-conflicts --editable '.[docs]'    # recbole misses what is not ours
	@touch $@

bench: .venv/installed  ## the figures of the README, with their budgets
	$(BIN)/forebay bench

clean:           ## what can be made again
	rm -rf .venv build dist site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis src/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
