# One environment for everything, made on first use and again when pyproject.toml or constraints.txt change.
#
#   make demo       the whole loop on the shipped models, predicted beside measured
#   make test       the fast tests, on two cores
#   make test-slow  the tests left out of `make test`
#   make lint       ruff and pyright
#   make bench      our generation beside its peers, in one run
#   make real       the loop on a public model (SmolLM2), beside transformers; needs pip's index
#   make engines    vLLM, llama.cpp and OpenVINO on the CPU, in an environment of their own (.venv-engines), as peers
#   make notebooks  execute every notebook in place
#   make clean      remove caches, builds and out/; `rm -rf .venv` removes the environment
#
# PYTHON chooses the interpreter (3.11 or newer); PIP_ARGS goes to every `pip install`, for example to name an index.

PYTHON ?= python3
PIP_ARGS ?=
EXTRAS := run,plan,notebooks,dev
WORKERS ?= 2
# Of speculators the tests take one class, as a peer: it is installed without what else it asks for.
SPECULATORS := speculators hs-connectors openai sniffio datasets dill multiprocess xxhash

comma := ,
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check $(PIP_ARGS) -c constraints.txt
STAMP := $(VENV)/.installed-$(subst $(comma),-,$(EXTRAS))
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: help install demo test test-slow lint bench real engines notebooks clean
help:
	@sed -n 's/^#   //p' Makefile

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed. Got: $$($(PYTHON) --version 2>&1). Name one: make PYTHON=python3.12 ..."; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) cannot make an environment: it has no venv or no ensurepip. On Debian: apt install python3-venv"; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) -e '.[$(EXTRAS)]'
	$(if $(filter dev,$(subst $(comma), ,$(EXTRAS))),$(PIP) --no-deps $(SPECULATORS))
	@touch $@

demo: $(STAMP)
	$(BIN)/reader demo

test: $(STAMP)
	$(PYTEST) -n $(WORKERS) --dist loadscope

test-slow: $(STAMP)
	$(PYTEST) -n $(WORKERS) --dist worksteal -m slow

lint: $(STAMP)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m pyright

bench: $(STAMP)
	$(BIN)/python -m proofs_tests.benchmarks.peers

real: $(STAMP)
	$(BIN)/python -m proofs_tests.benchmarks.real

ENGINES := .venv-engines
engines: $(ENGINES)/.installed

$(ENGINES)/.installed: proofs_tests/benchmarks/engines/requirements.txt proofs_tests/benchmarks/engines/sources.txt
	$(PYTHON) -m venv $(ENGINES)
	$(ENGINES)/bin/python -m pip install --disable-pip-version-check $(PIP_ARGS) torch==2.13.0
	$(ENGINES)/bin/python -m pip install --disable-pip-version-check $(PIP_ARGS) -r $<
	$(ENGINES)/bin/python -m pip install --disable-pip-version-check $(PIP_ARGS) --no-deps -r proofs_tests/benchmarks/engines/sources.txt
	$(ENGINES)/bin/python -m pip uninstall -y torchvision torchaudio torchcodec  # they do not fit a CPU build of torch
	@touch $@

notebooks: $(STAMP)
	$(BIN)/jupyter-execute --inplace notebooks/*.ipynb

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis out
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
