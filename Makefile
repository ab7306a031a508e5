# Wattmill. `make` lists the verbs. Every verb does its own set-up: a fresh clone needs only python3 and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --quiet --disable-pip-version-check install
ROOTFS := /var/tmp/wattmill
TESTS ?= tests

.DEFAULT_GOAL := help
.PHONY: help up test lint types format check bench scoreboard docs chart picture rootfs lock zipapp wheel ci-setup test-setup clean

help: ## list the verbs
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

up: $(VENV)/service ## everything on this host, until Ctrl-C: database, service, page, agent or simulated fleet
	@exec $(BIN)/wattmill up

test: $(VENV)/dev test-setup ## all tests; TESTS=tests/api for some
	$(BIN)/python -m pytest $(PYTEST_ARGS) $(TESTS)

lint: $(VENV)/dev ## style, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/dev ## mypy --strict and pyright
	$(BIN)/mypy
	$(BIN)/pyright

format: $(VENV)/dev ## put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: lint types test ## what CI asks for, without its real database and engine

bench: $(VENV)/dev ## measure the kernels, and with WATTMILL_DATABASE_URL the line from post to ledger
	$(BIN)/python tests/benchmarks/kernels.py
	$(BIN)/python tests/benchmarks/detectors.py
	@test -z "$$WATTMILL_DATABASE_URL" || PYTHONPATH=tests $(BIN)/python tests/benchmarks/line.py

scoreboard: $(VENV)/dev ## how well detectors do on simulated weeks, beside fixed thresholds; SEEDS="1 2" for others
	@PYTHONPATH=tests $(BIN)/python -m scoreboard $(SEEDS)

docs: $(VENV)/dev ## write docs/metrics.md and docs/engines.md anew from the catalogue and the tables
	$(BIN)/python scripts/metrics-page > docs/metrics.md
	$(BIN)/python scripts/engines-page > docs/engines.md

chart: ## copy alert rules and dashboards of deploy/ into the chart, which can hold no file from outside its folder
	@mkdir -p helm/wattmill/files/rules helm/wattmill/files/dashboards
	@cp deploy/prometheus/*.rules.yaml helm/wattmill/files/rules/
	@cp deploy/grafana/dashboards/*.json helm/wattmill/files/dashboards/

picture: $(VENV)/dev ## take the pictures in docs/img of a running `make up` (needs chromium)
	$(BIN)/python scripts/picture

rootfs: ## as root: unpack the real TimescaleDB, llama-server and promtool for the tests
	scripts/timescaledb-rootfs $(ROOTFS)/timescaledb
	scripts/llama-rootfs $(ROOTFS)/llama
	scripts/promtool $(ROOTFS)/promtool

lock: ## pin every dependency anew (needs uv)
	scripts/lock

zipapp: $(VENV)/dev ## build the one-file agent into dist/wattmill.pyz
	@scripts/zipapp dist/wattmill.pyz

wheel: $(VENV)/dev ## build the wheel into dist/
	$(BIN)/pip --quiet wheel --no-deps --no-build-isolation --wheel-dir dist .

ci-setup: $(VENV)/dev ## as root: everything that CI needs on this host
	scripts/system-packages --all
	$(MAKE) rootfs

test-setup:
	@scripts/test-setup $(ROOTFS)

clean: ## remove the environment and what tools left behind
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

$(VENV)/service: requirements/service.txt pyproject.toml | $(BIN)/pip
	@echo "installing the service into $(VENV)"
	@$(PIP) --require-hashes -r $<
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/dev: requirements/dev.txt pyproject.toml | $(BIN)/pip
	@echo "installing the service and the tools into $(VENV)"
	@$(PIP) --require-hashes -r $<
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/service

$(BIN)/pip:
	@PYTHON=$(PYTHON) scripts/venv $(VENV)
