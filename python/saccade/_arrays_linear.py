"""Linear attention on arrays that are not torch's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from saccade._arrays import _cast, _dlpack, _like


def prepare(fn: str, tensors: tuple, step: bool) -> tuple:
    """Casts decays and states as the torch side does; a step's state must be memory that may be written."""
    q, k, v, decay, *rest = tensors
    wanted = "float64" if str(getattr(q, "dtype", "")) == "float64" else "float32"
    if isinstance(decay, Sequence):
        decay = _namespace(q).asarray(decay, dtype=wanted)
    if step:
        flags = getattr(rest[0], "flags", None)
        if not getattr(flags, "writeable", False):
            raise TypeError(
                f"{fn}: state: got {type(rest[0]).__name__}, wanted a writable NumPy array, which is updated in place; "
                "for other arrays use linear_attention with initial_state and return_state"
            )
        return q, k, v, _cast(decay, wanted), rest[0]
    return q, k, v, _cast(decay, wanted), _cast(rest[0], wanted), rest[1]


def linear_attention(tensors: tuple, scalars: tuple, return_state: bool) -> tuple:
    results = _dlpack.linear_attention(tensors, scalars, return_state)
    return tuple(None if result is None else _like(tensors[0], result) for result in results)


def linear_attention_backward(dout: Any, dstate: Any, out: Any, tensors: tuple, scalars: tuple) -> tuple:
    needs = [t is not None for t in tensors[3:5]]
    results = _dlpack.linear_attention_backward(dout, dstate, out, tensors, scalars, needs)
    return tuple(None if result is None else _like(tensors[0], result) for result in results)


def linear_attention_step(tensors: tuple, scalars: tuple) -> Any:
    return _like(tensors[0], _dlpack.linear_attention_step(tensors, scalars))


explain = _dlpack.explain_linear_attention
explain_step = _dlpack.explain_linear_attention_step


def _namespace(q: Any) -> Any:
    if hasattr(q, "__array_namespace__") and type(q).__module__ != "numpy":
        return q.__array_namespace__()
    import numpy

    return numpy
