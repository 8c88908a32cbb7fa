# The Python that .venv is made from, 3.11 or newer.
PYTHON ?= python3
# Named in the same pip command as the package, so that one resolution decides. Where the package index offers several
# builds (CPU, CUDA), choose here and by pip's own settings: make install TORCH=... PIP_EXTRA_INDEX_URL=...
TORCH ?= torch==2.13.0

BIN := .venv/bin
DEVELOP := .venv/.develop
# what development needs covers what serving needs
SERVE := $(firstword $(wildcard $(DEVELOP)) .venv/.serve)

.DEFAULT_GOAL := help
.PHONY: help install serve test lint bench

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name text; \
		do printf '  make %-8s %s\n' "$$name" "$$text"; done

install: $(DEVELOP) ## make .venv with all that development needs

serve: $(SERVE) ## serve the shipped model on http://127.0.0.1:8000
	@exec $(BIN)/python -m service

test: $(DEVELOP) ## run all tests; coverage of service/ and models/ must be 95 % or more
	$(BIN)/python -m pytest --cov --cov-report=term-missing:skip-covered --cov-fail-under=95

lint: $(DEVELOP) ## check style, format and types
	$(BIN)/ruff check . deploy/check-container
	$(BIN)/ruff format --check . deploy/check-container
	$(BIN)/mypy
	$(BIN)/mypy deploy/check-container

bench: $(DEVELOP) ## measure the service on this machine
	$(BIN)/python -m benchmarks.service

# Stamps: written after a whole installation, so that the next call installs nothing until pyproject.toml changes.
$(DEVELOP): EXTRAS := dev
.venv/.serve: EXTRAS := torch
$(DEVELOP) .venv/.serve: pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("lstm-serve needs Python 3.11 or newer, \
	$(PYTHON) is %d.%d: name another, as in make PYTHON=python3.12" % (v[0], v[1]))'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "$(TORCH)" -e ".[$(EXTRAS)]"
	@touch $@
