"""saccade: fast, memory-linear, trainable attention for PyTorch, NumPy, JAX and C++.

Importing it imports neither torch nor numpy: the arrays that arrive decide what is loaded.
"""

from __future__ import annotations

import importlib

from saccade import kernels
from saccade.attention import Gradients, attention, attention_backward, sdpa, sigmoid_attention, softmax_attention
from saccade.kernels import info

__all__ = [
    "Gradients",
    "attention",
    "attention_backward",
    "info",
    "kernels",
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
