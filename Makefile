# Front door: `make demo`, `make test`. Each target installs what is missing, configures and builds first.
# Settings: JOBS=2 CAMO_CUDA=AUTO|ON|OFF CMAKE_FLAGS="-DCAMO_WERROR=ON" BUILD=build/release CAMO_SKIP_DEPS=1
SHELL := /bin/bash
BUILD ?= build/release
JOBS ?= $(shell nproc)
CAMO_CUDA ?= AUTO
CMAKE_FLAGS ?=

.DEFAULT_GOAL := help
.PHONY: help deps lint-deps configure build test demo offline-deps format lint install clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 16

demo: configure  ## build the program, train and evaluate it on a small synthetic data set
	@cmake --build $(BUILD) -j $(JOBS) --target camoxpert
	@scripts/demo.sh $(BUILD)

test: build  ## build and run all tests
	@rm -f $(BUILD)/test-results/*
	@ctest --test-dir $(BUILD) -L fast -j $(JOBS) --output-on-failure; fast=$$?; \
	  ctest --test-dir $(BUILD) -L slow -j $(JOBS) --output-on-failure; slow=$$?; \
	  python3 scripts/test_summary.py $(BUILD) && exit $$((fast | slow))

deps:
	@scripts/install_deps.sh

configure: deps
	@log=$$(mktemp); cmake -S . -B $(BUILD) -G Ninja -DCMAKE_BUILD_TYPE=Release -DCAMO_CUDA=$(CAMO_CUDA) $(CMAKE_FLAGS) \
	  >$$log 2>&1 && grep -E '^-- (CUDA|oneDNN)' $$log || { cat $$log; rm -f $$log; exit 1; }; rm -f $$log

build: configure  ## build everything into $(BUILD)
	@cmake --build $(BUILD) -j $(JOBS)

offline-deps:  ## unpack the libraries into .offline-deps, for machines without network
	@scripts/offline_deps.sh

lint-deps:
	@scripts/install_deps.sh --lint

format: lint-deps  ## format all sources in place
	@scripts/lint.sh --fix

lint: lint-deps  ## formatting, include direction, file length, clang-tidy
	@scripts/lint.sh $(LINT_FLAGS)

install: build  ## install libraries, headers and programs (PREFIX=/usr/local)
	@cmake --install $(BUILD) --prefix $(or $(PREFIX),/usr/local)

clean:  ## remove build/
	@rm -rf build
