# The Python that .venv is made from, 3.11 or newer.
PYTHON ?= python3
# Named in the same pip command as the package, so that one resolution decides. Where the package index offers several
# builds (CPU, CUDA), choose here and by pip's own settings: make install TORCH=... PIP_EXTRA_INDEX_URL=...
TORCH ?= torch==2.13.0

BIN := .venv/bin
DEVELOP := .venv/.develop
# an environment of KServe's client, whose pins are not ours
KSERVE := build/kserve-venv/.made
# the native engine again, in whose way tests can put faults (native/fault.h)
FAULTS := build/faults/.made
# what development needs covers what serving needs
SERVE := $(firstword $(wildcard $(DEVELOP)) .venv/.serve)

.DEFAULT_GOAL := help
.PHONY: help install serve test sanitize fuzz overload soak lint bench lock

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name text; \
		do printf '  make %-8s %s\n' "$$name" "$$text"; done

install: $(DEVELOP) ## make .venv with all that development needs

serve: $(SERVE) ## serve the shipped model on http://127.0.0.1:8000
	@exec $(BIN)/python -m service

test: $(DEVELOP) $(KSERVE) $(FAULTS) ## run all tests; coverage of service/ and models/ must be 95 % or more
	$(BIN)/python -m pytest --cov --cov-report=term-missing:skip-covered --cov-fail-under=95

sanitize: $(DEVELOP) ## run the native engine's tests under the address, undefined behaviour and thread sanitizers
	@$(call sanitized,address,address$(comma)undefined,asan)
	@$(call sanitized,thread,thread,tsan)

configure = $(BIN)/cmake -S . -G Ninja -D CMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja -D CMAKE_CXX_COMPILER=$(CXX) \
	-D Python_EXECUTABLE=$(CURDIR)/$(BIN)/python -D LSTMSERVE_FAULTS=ON

# Python is built without the sanitizers: their library is loaded before it, and that of C++, whose throw they intercept.
# Without setarch the thread sanitizer may not find its addresses free. A run in which all is skipped is a failure.
comma := ,
library = $(shell $(CXX) -print-file-name=lib$(1).so)
define sanitized
set -e; folder=build/sanitize-$(1); echo "--- sanitizers: $(2)"; \
$(configure) -B $$folder -D CMAKE_BUILD_TYPE=Debug -D LSTMSERVE_SANITIZE=$(2) -D LSTMSERVE_WERROR=ON; \
$(BIN)/cmake --build $$folder; rm -f $$folder/tests.xml; \
NATIVE_CORE=$$(echo $$folder/_core.*.so) ASAN_OPTIONS=detect_leaks=0 \
	UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 TSAN_OPTIONS=halt_on_error=1 \
	LD_PRELOAD="$(call library,$(3)) $(call library,stdc++)" \
	setarch -R $(BIN)/python -m pytest --capture=sys tests/test_native*.py --junit-xml=$$folder/tests.xml; \
grep -q '<testcase [^>]*/>' $$folder/tests.xml || { echo "sanitize: every test was skipped" >&2; exit 1; }
endef

fuzz: $(DEVELOP) $(FAULTS) ## twenty times the malformed input that the tests have; FUZZ=100 for more
	FUZZ=$(or $(FUZZ),20) $(BIN)/python -m pytest -s tests/test_fuzz_*.py

overload: $(DEVELOP) ## far more load than the service can bear; what it then still does; takes five minutes
	$(BIN)/python -m benchmarks.overload

soak: $(DEVELOP) ## everything at once, every answer checked, for ten minutes; MINUTES=60 for more
	$(BIN)/python -m benchmarks.soak --minutes $(or $(MINUTES),10)

lint: $(DEVELOP) ## check style, format and types
	$(BIN)/ruff check . deploy/check-container
	$(BIN)/ruff format --check . deploy/check-container
	$(BIN)/mypy
	$(BIN)/mypy deploy/check-container
	$(BIN)/clang-format --dry-run --Werror native/*.h native/*.cpp

bench: $(DEVELOP) ## measure engines and service on this machine, beside others; takes a quarter of an hour
	$(BIN)/python -m benchmarks

LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--custom-compile-command "make lock" $(UPGRADE)
lock: $(DEVELOP) ## pin the dependencies again; UPGRADE=--upgrade takes the newest
	$(LOCK) pyproject.toml --output-file requirements.lock
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], \
	"cmake", "ninja", sep="\n")' | $(LOCK) - --output-file requirements-build.lock
	echo torch | $(LOCK) pyproject.toml --extra dev --excludes /dev/stdin --constraint requirements.lock \
		--constraint requirements-build.lock --output-file requirements-dev.lock

# Stamps: written after a whole installation, so that the next call installs nothing until what is installed changes.
# Serving needs no torch on a CPU, unless the native engine could not be built.
.venv/.develop: LOCKED := --requirement requirements-dev.lock
.venv/.serve: LOCKED := --requirement requirements.lock --requirement requirements-build.lock
.venv/.develop: WANTED := "$(TORCH)" -e ".[dev]"
.venv/.serve: WANTED := -e .
.venv/.develop .venv/.serve: pyproject.toml CMakeLists.txt $(wildcard requirements*.lock native/*)
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("lstm-serve needs Python 3.11 or newer, \
	$(PYTHON) is %d.%d: name another, as in make PYTHON=python3.12" % (v[0], v[1]))'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes $(LOCKED)
	$(BIN)/python -m pip install --quiet --no-build-isolation $(WANTED)
	@$(BIN)/python -c 'import service.engine._core' 2>/dev/null || { echo "the native engine was not built (it needs a \
	C++17 compiler and Python.h; pip install -v . shows why): torch takes its place" >&2; \
	$(BIN)/python -m pip install --quiet "$(TORCH)"; }
	@touch $@

$(FAULTS): CMakeLists.txt $(wildcard native/*) | $(DEVELOP)
	$(configure) -B build/faults -D CMAKE_CXX_FLAGS_RELEASE=-O1
	$(BIN)/cmake --build build/faults
	@touch $@

$(KSERVE):
	$(PYTHON) -m venv build/kserve-venv
	build/kserve-venv/bin/python -m pip install --quiet kserve==0.21.0
	@touch $@
