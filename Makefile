# Everything a person or a CI machine runs; needs make and Python 3.11 or newer, and writes only to .venv and .data.

# A distribution builds Python with a profile of itself, pyenv does not unless it is told to: a booking takes that one
# 1.2 times as long and more. So the distribution's it is, where that can be used.
SYSTEM_PYTHON ?= /usr/bin/python3
PYTHON ?= $(shell $(SYSTEM_PYTHON) -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $(SYSTEM_PYTHON) || echo python3)
SEEDS ?= 1,2,3,4,5,6,7,8,9,10
PIP := .venv/bin/python -m pip --disable-pip-version-check
COMPILE := .venv/bin/python -m piptools compile --quiet --no-header --strip-extras --allow-unsafe \
	--no-emit-index-url --no-emit-find-links --no-emit-trusted-host --extra embedded

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test faults load bench lint format lock env-example clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: .venv/.runtime ## start everything in the foreground: servers, mocks, worker and API
	@exec .venv/bin/booking up

test: .venv/.test ## run every test against servers it starts itself (ARGS="-k words" picks some)
	.venv/bin/python -m pytest --numprocesses 2 --dist loadfile $(ARGS)

faults: .venv/.test ## the fault runs at full length, reported in .data/faults (SEEDS=1,2 SECONDS=130 and ARGS choose)
	FAULT_CHANGES=2000 FAILPOINTS=all .venv/bin/python -m pytest tests/faults tests/failpoints
	.venv/bin/python -m tests.faults --seeds $(SEEDS) --seconds $(or $(SECONDS),130) $(ARGS)

load: .venv/.test ## users in their crowds, then a look at whether all they were told is true (SHAPE=smoke HOST=URL KEY=... ARGS=--web)
	@exec .venv/bin/python -m loadtest.load $(if $(findstring ://,$(HOST))$(filter command,$(origin HOST)),--host "$(HOST)") $(if $(SECONDS),--seconds $(SECONDS)) $(ARGS)

bench: .venv/.runtime ## measure it beside Postgres and Sanic alone, into loadtest/RESULTS.md (ARGS="--figures B1,B2" chooses)
	@command -v wrk >/dev/null \
		|| { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq --no-install-recommends wrk; } \
		|| { echo "wrk makes the load and is missing: install it, on Debian with apt-get install wrk" >&2; exit 1; }
	.venv/bin/python -m loadtest.bench $(ARGS)

lint: .venv/.test ## check style, types, the order of imports and the Dockerfile
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 .venv/bin/pyright --project pyproject.toml --pythonpath .venv/bin/python
	.venv/bin/lint-imports
	.venv/bin/hadolint Dockerfile

format: .venv/.test ## format the code and sort its imports
	.venv/bin/ruff check --fix-only .
	.venv/bin/ruff format .

lock: .venv/.test ## pin the dependencies of pyproject.toml anew (ARGS=--upgrade takes newer ones)
	$(COMPILE) $(ARGS) --output-file requirements.txt pyproject.toml
	$(COMPILE) $(ARGS) --extra test --constraint requirements.txt --output-file requirements-test.txt pyproject.toml

env-example: .venv/.runtime ## write .env.example from the settings
	.venv/bin/python -c 'from service.config import Settings; print(*(f"# {about} ({unit})\n{name}={default}\n" for name, default, unit, about in Settings.describe()), sep="\n", end="")' > .env.new
	mv .env.new .env.example

clean: ## remove what the other commands built, but not the data in .data
	rm -rf .venv build dist .pytest_cache .ruff_cache .import_linter_cache .hypothesis .schemathesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: install it, or name it with PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
		|| { echo "This Python cannot make virtual environments: on Debian, apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv .venv

.venv/.runtime: requirements.txt pyproject.toml | .venv/bin/python
	@echo "Installing the pinned dependencies into .venv ..."
	$(PIP) install --quiet --requirement requirements.txt
	$(PIP) install --quiet --no-deps --editable .
	@touch $@

.venv/.test: requirements-test.txt .venv/.runtime
	@echo "Installing the tools of the tests into .venv ..."
	$(PIP) install --quiet --requirement requirements-test.txt
	@touch $@
