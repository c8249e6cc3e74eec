"""Arrays that are not torch's: NumPy, JAX, whatever has `__dlpack__`. Results are of the query's kind, not copied."""

from __future__ import annotations

from typing import Any

try:
    from saccade import _dlpack
except ImportError as error:
    raise ImportError(
        f"saccade: arrays other than torch tensors need saccade._dlpack, which is not here for this Python ({error}); "
        "install a wheel made for it, or build with pybind11 and the Python headers at hand"
    ) from error

kernels = _dlpack.kernels
cpu_isa = _dlpack.cpu_isa
version = _dlpack.version
explain = _dlpack.explain_attention


def prepare(fn: str, tensors: tuple) -> tuple:
    """Casts parameters as the torch side does: to float32, or float64 beside a float64 query."""
    q, k, v, bias, *parameters, relative_keys, relative_bias, cu_q, cu_k = tensors
    wanted = "float64" if str(getattr(q, "dtype", "")) == "float64" else "float32"
    relative_bias = _cast(relative_bias, wanted)
    return (q, k, v, bias, *(_cast(p, wanted) for p in parameters), relative_keys, relative_bias, cu_q, cu_k)


def _cast(p: Any, wanted: str) -> Any:
    return p.astype(wanted) if hasattr(p, "astype") and str(p.dtype) in _FLOATS - {wanted} else p


def attention(tensors: tuple, scalars: tuple) -> tuple:
    results = _dlpack.attention(tensors, scalars)
    return tuple(None if result is None else _like(tensors[0], result) for result in results)


def attention_backward(dout: Any, dlse: Any, out: Any, lse: Any, tensors: tuple, scalars: tuple) -> tuple:
    needs = [t is not None for t in tensors[3:11]]
    needs[0] = needs[0] and str(getattr(tensors[3], "dtype", "")) != "bool"
    results = _dlpack.attention_backward(dout, dlse, out, lse, tensors, scalars, needs)
    return tuple(None if result is None else _like(tensors[0], result) for result in results)


def draw_seed() -> None:
    """There is no generator that NumPy, JAX and the rest share."""


_FLOATS = frozenset(("float16", "bfloat16", "float32", "float64"))


def _like(query: Any, result: Any) -> Any:
    """`result` as the query's kind of array; the result itself, which has `__dlpack__`, where that kind is unknown."""
    if type(query).__module__ == "numpy":
        import numpy

        return numpy.asarray(result)
    namespace = getattr(query, "__array_namespace__", None)
    return result if namespace is None else namespace().from_dlpack(result)
