# From nothing: `make demo` runs the whole pipeline on an embedded task, `make test` runs the tests.
# Needs Python >= 3.10 with venv, git and a C++17 compiler; everything else goes into .venv.
PYTHON ?= python3
VENV := .venv
TRL := build/trl-venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -q -c constraints.txt
NATIVE := CMakeLists.txt setup.py pyproject.toml $(shell find csrc -type f)
CPP := $(shell git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu' 'csrc/*.cuh')
SPEC ?= specs/quickstart.yaml
export PATH := $(abspath $(BIN)):$(PATH)

.PHONY: build demo test ctest pytest emulated gpu-check check lint format bench bench-trl miniature asan specs clean
build: $(VENV)/.built

$(VENV)/.venv:
	$(PYTHON) -m venv $(VENV)
	touch $@
$(VENV)/.packages: $(VENV)/.venv constraints.txt
	$(PIP) torch
	$(PIP) setuptools wheel cmake ninja pybind11 apache-tvm-ffi
	touch $@
$(VENV)/.built: $(VENV)/.packages $(NATIVE)
	$(PIP) --no-build-isolation -e '.[data,log,dev]'
	touch $@

demo: build
	python -m toolkit run $(SPEC)
test: ctest pytest emulated
ctest: build
	cmake --preset cpu -DRLHF_KERNELS_MODULE=OFF -DRLHF_KERNELS_WERROR=$(or $(WERROR),OFF)
	cmake --build --preset cpu
	ctest --preset cpu
pytest: build
	python -m pytest -q -n 2 -m 'not slow and not cuda' $(ARGS)
emulated: build
	cmake --preset emulated && cmake --build --preset emulated
	python -m pytest -q -n 2 tests/cuda --emulated $(ARGS)
# On a machine with a GPU: no .venv and no network, PYTHON is one whose torch has CUDA.
gpu-check:
	$(PYTHON) -m tests.gpu_check $(ARGS)
check: lint test
lint: build
	ruff check .
	ruff format --check .
	clang-format --dry-run -Werror $(CPP)
	mypy
format: build
	ruff check --fix .
	ruff format .
	clang-format -i $(CPP)
bench: build
	python -m rlhf_kernels.bench $(ARGS)
# torch first: what TRL asks for would otherwise choose its own.
$(TRL)/.built: specs/compare/requirements.txt constraints.txt
	$(PYTHON) -m venv $(TRL)
	$(TRL)/bin/python -m pip install -q -c constraints.txt torch
	$(TRL)/bin/python -m pip install -q -c constraints.txt -r specs/compare/requirements.txt
	touch $@
bench-trl: build $(TRL)/.built
	python -m specs.compare --trl $(TRL)/bin/python $(ARGS)
miniature: build
	python -m specs.miniature $(ARGS)
asan: build
	cmake --preset asan && cmake --build --preset asan && ctest --preset asan
specs: build
	python -m toolkit.spec.docs > docs/SPEC.md
	for spec in $$(grep -L $(if $(RLHF_DATA),nothing-left-out,RLHF_DATA) \
	  $(filter-out specs/instructgpt-%,$(wildcard specs/*.yaml))); do \
	  python -m toolkit check $$spec || exit 1; done
clean:
	rm -rf build dist *.egg-info rlhf_kernels/*.so $(VENV)/.built .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
