"""Fixtures that every test shares: the kernels of this machine, and the oracle's verdict on a case, computed once."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from pathlib import Path

import hypothesis
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import cases
import tolerance

REFERENCE = "cpu.reference.attention"

hypothesis.settings.register_profile("default", deadline=None, max_examples=40)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=40, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")


def runnable(op: str = "attention") -> list[str]:
    """Names of an operation's kernels that this machine can run: for CPU tensors first, in order of preference."""
    try:
        import saccade
    except ImportError:  # collect the oracle's tests still; every test that asks for a kernel fails in the fixture
        return ["none"]
    names = [k.name for k in saccade.kernels.list() if k.op == op and not k.reason]
    return sorted(names, key=lambda name: name.startswith("cuda."))


KERNELS = runnable()


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest):
    """Each runnable kernel in turn, forced for the length of the test."""
    import saccade

    with saccade.kernels.use(request.param):
        yield request.param


def emulator() -> ctypes.CDLL | None:
    """The emulated CUDA runtime (tests/emulator), where this process has preloaded it."""
    library = ctypes.CDLL(None)
    return library if hasattr(library, "saccade_emulator_findings") else None


@pytest.fixture(autouse=True)
def seeded():
    """Modules start from torch's global generator: the same in every order of the tests."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_findings():
    """What the emulator's strict modes find in a test's launches fails the test."""
    yield
    if (library := emulator()) is not None:
        text = ctypes.create_string_buffer(1 << 16)
        found = library.saccade_emulator_findings(text, len(text))
        library.saccade_emulator_clear()
        assert not found, text.value.decode()


@pytest.fixture
def untracked_memory():
    """Memory that the emulator has not seen allocated (mmap) may be touched in the test."""
    library = emulator()
    if library is not None:
        library.saccade_emulator_set(b"untracked=off")
    yield
    if library is not None:
        library.saccade_emulator_set(b"untracked=on")


@functools.cache
def inputs_of(case: cases.Case) -> cases.Inputs:
    return cases.make(case)


@functools.cache
def expected_of(case: cases.Case) -> tolerance.Expected:
    return tolerance.expect(inputs_of(case))


@pytest.fixture
def threads():
    """Sets torch's thread count for the test: threads(n)."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
