"""Which kernels there are, which one a call would use and why, and how to force one."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["Candidate", "Kernel", "explain", "info", "list", "use"]

_forced = ""


@dataclass(frozen=True)
class Kernel:
    """A kernel of this build: its operation, its name, and why this machine cannot run it ("": it can)."""

    op: str
    name: str
    reason: str


@dataclass(frozen=True)
class Candidate:
    """A kernel before a given call: why it cannot run that call ("": it can), and whether it is the one that would."""

    name: str
    reason: str
    chosen: bool


def list() -> builtins.list[Kernel]:
    """Every kernel of this build, in order of preference within each operation."""
    return [Kernel(*row) for row in _native().kernels()]


def explain(
    q: Any, k: Any, v: Any, *, op: str = "attention", backward: bool = False, **options: Any
) -> builtins.list[Candidate]:
    """Every candidate for `saccade.<op>(q, k, v, **options)`, or for its backward, in order of preference.

    `op`: "attention", "linear_attention" or "linear_attention_step" (which has no backward); options are the
    function's. Raises RuntimeError where the call itself would be malformed.
    """
    if op in ("linear_attention", "linear_attention_step"):
        from saccade import linear

        return [Candidate(*row) for row in linear._explain(op, q, k, v, backward, options)]
    if op != "attention":
        raise ValueError(
            f"kernels.explain: op: got {op!r}, wanted 'attention', 'linear_attention' or 'linear_attention_step'"
        )
    from saccade.attention import _arguments

    options.setdefault("seed", 0)
    backend, tensors, scalars = _arguments("kernels.explain", q, k, v, **options)
    return [Candidate(*row) for row in backend.explain(tensors, scalars, backward)]


@contextmanager
def use(name: str) -> Iterator[None]:
    """Forces the kernel `name` ("" lifts it) for every call in the process until the block ends. Blocks nest.

    A forward remembers it for its backward. A call that the kernel cannot run raises RuntimeError with every candidate
    and its reason. Precedes the environment variable SACCADE_KERNEL.

    Raises:
        ValueError: this build has no kernel of that name.
    """
    global _forced
    names = builtins.list(dict.fromkeys(kernel.name for kernel in list()))
    if name and name not in names:
        raise ValueError(
            f"kernels.use: name: got {name!r}, wanted one of {', '.join(names)}; see saccade.kernels.list()"
        )
    outer, _forced = _forced, name
    try:
        yield
    finally:
        _forced = outer


def forced() -> str:
    """The name given to `use`, "" outside of it. torch.compile guards on it."""
    return _forced


def info() -> dict[str, Any]:
    """What this installation is: versions, bindings (None or the reason they are missing), instruction set, kernels."""
    import platform
    import sys

    native = _native()
    missing = {name: _missing(name) for name in ("_torch", "_arrays")}
    return {
        "version": native.version(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "path": str(Path(__file__).parent),
        "cpu_isa": native.cpu_isa(),
        "torch": getattr(sys.modules.get("torch"), "__version__", None),
        "torch_binding": missing["_torch"],
        "dlpack_binding": missing["_arrays"],
        "forced": _forced,
        "kernels": list(),
    }


def _missing(module: str) -> str | None:
    import importlib

    try:
        importlib.import_module(f"saccade.{module}")
    except ImportError as error:
        return str(error)
    return None


def _native() -> ModuleType:
    """The binding that loads faster; both ask the same libsaccade."""
    try:
        from saccade import _arrays as native
    except ImportError:
        from saccade import _torch as native
    return native
