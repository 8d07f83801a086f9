# make demo | test | test-all | lint | wheel. Everything happens in .venv, with the versions of constraints.txt.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE_SOURCES := CMakeLists.txt $(shell find csrc -type f)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo test test-all lint build wheel cuda clean

demo: build
	$(BIN)/python examples/demo.py

test: lint
	$(BIN)/python -m pytest -q

test-all: lint
	$(BIN)/python tests/run_all.py

lint: build
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files 'csrc/*.cpp' 'csrc/*.h')
	$(BIN)/mypy

# What is installed stays until what it is made of changes.
$(VENV)/installed: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt torch
	$(PIP) install -c constraints.txt torchvision scikit-build-core pybind11 ninja cmake pyyaml click rich pydantic safetensors \
	  pytest pytest-benchmark hypothesis matplotlib ruff mypy types-PyYAML clang-format torch-abi-audit
	touch $@

# Editable: Python files are used as they are, native ones are built here. No build isolation: it would build against another torch.
$(VENV)/built: $(VENV)/installed pyproject.toml $(NATIVE_SOURCES)
	$(PIP) install --no-build-isolation --no-deps --editable . --config-settings=build-dir=build/editable
	touch $@

build: $(VENV)/built

# A wheel in dist/, audited, and tried in an empty environment.
wheel: $(VENV)/installed
	rm -rf dist
	$(PIP) wheel --no-build-isolation --no-deps --wheel-dir dist . --config-settings=build-dir=build/wheel
	$(PYTHON) tests/wheel/try_wheel.py dist/*.whl

# The CUDA kernels, for all their architectures, without a warning; needs nvcc, and no GPU.
cuda: $(VENV)/installed
	$(BIN)/cmake -S . -B build/cuda -G Ninja -DTVC_CUDA=ON -DTVC_CUDA_WERROR=ON -DPython_EXECUTABLE=$(abspath $(BIN)/python) \
	  -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) -Dpybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir)
	$(BIN)/cmake --build build/cuda --target tvc_ops_cuda

clean:
	rm -rf $(VENV) build dist demo-output
