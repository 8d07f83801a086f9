# make demo, test, test-all, lint, docs, build, sanitize, wheel. Everything happens in .venv, with the versions of constraints.txt.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE_SOURCES := CMakeLists.txt $(shell find csrc -type f)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo test test-all lint docs build sanitize wheel clean

demo: build
	$(BIN)/python examples/demo.py

# Two workers, and then, with the machine to themselves, the tests that measure time.
test: lint
	$(BIN)/python -m pytest -q -n 2 --dist loadgroup -m "not full and not alone"
	$(BIN)/python -m pytest -q -m "alone and not full"

test-all: lint
	$(BIN)/python tests/run_all.py

lint: build
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files 'csrc/*.cpp' 'csrc/*.h')
	$(BIN)/mypy

# The site, in build/site; strictly, and without a network.
docs: build
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# What is installed stays until what it is made of changes.
$(VENV)/installed: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt torch
	$(PIP) install -c constraints.txt torchvision scikit-build-core pybind11 ninja cmake pyyaml click rich pydantic safetensors \
	  timm pytest pytest-benchmark pytest-xdist hypothesis matplotlib optuna ruff mypy types-PyYAML clang-format torch-abi-audit \
	  sybil mkdocs-material 'mkdocstrings[python]' playwright
	touch $@

# Native files are built once, in build/native, for the editable installation and for the wheel. No build isolation: it would
# build against another torch. TVC_CUDA: AUTO (where nvcc is found), ON or OFF.
TVC_CUDA ?= AUTO
NATIVE := --no-build-isolation --no-deps --config-settings=build-dir=build/native \
  --config-settings=cmake.define.TVC_CUDA=$(TVC_CUDA) --config-settings=cmake.define.TVC_CUDA_CHECK=$(or $(TVC_CUDA_CHECK),OFF)

# Editable: Python files are used as they are.
$(VENV)/built: $(VENV)/installed pyproject.toml $(NATIVE_SOURCES)
	$(PIP) install $(NATIVE) --editable .
	touch $@

build: $(VENV)/built

# The op tests on kernels built with AddressSanitizer and UndefinedBehaviorSanitizer, in an environment of their own that sees
# the packages of .venv.
SANITIZED := build/sanitized
sanitize: build
	rm -rf $(SANITIZED) && $(PYTHON) -m venv --without-pip $(SANITIZED)
	$(BIN)/python tests/ops/sanitized.py $(SANITIZED)

# A wheel in dist/, audited, and tried in an empty environment.
wheel: build
	rm -rf dist
	$(PIP) wheel $(NATIVE) --wheel-dir dist .
	$(PYTHON) tests/wheel/try_wheel.py dist/*.whl

clean:
	rm -rf $(VENV) build dist demo-output
