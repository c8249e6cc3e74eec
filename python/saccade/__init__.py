"""saccade: fast, memory-linear, trainable attention for PyTorch, NumPy, JAX and C++.

Importing it imports neither torch nor numpy: the arrays that arrive decide what is loaded.
"""

from __future__ import annotations

import importlib

from saccade import kernels, linear
from saccade.attention import Gradients, attention, attention_backward, sdpa, sigmoid_attention, softmax_attention
from saccade.kernels import info
from saccade.linear import (
    LinearGradients,
    lightning_attention,
    linear_attention,
    linear_attention_backward,
    linear_attention_step,
)

__all__ = [
    "Gradients",
    "LinearGradients",
    "attention",
    "attention_backward",
    "info",
    "kernels",
    "lightning_attention",
    "linear",
    "linear_attention",
    "linear_attention_backward",
    "linear_attention_step",
    "sdpa",
    "sigmoid_attention",
    "softmax_attention",
]


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("saccade")
    if name in ("integrations", "nn"):
        return importlib.import_module(f"saccade.{name}")
    raise AttributeError(f"module 'saccade' has no attribute {name!r}")
