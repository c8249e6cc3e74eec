"""Attention systems as torch modules, thin over the functions of saccade: (B, N, C) in, (B, N, C) out.

Importing this package imports no torch; using one of its names does. What the modules have in common:

* `forward(x, ...)` takes x (B, N, C), or packed (T, C) with `cu_seqlens` int32 (B + 1,) where the system has it.
* `return_state=True` adds the state after the last token; `initial_state` goes on from one. A state is a
  tensor or a named tuple.
* `step(x, state=None)` takes one token a sequence, x (B, C), and returns (out, state) without gradients: None begins
  a sequence. The state that was passed in may have been overwritten.
"""

from __future__ import annotations

import importlib

_HOME = {
    "BaseConv": "based",
    "BasedAttention": "based",
    "FlowAttention": "flow",
    "GatedConv": "based",
    "InLineAttention": "inline",
    "LocalResidual": "local_residual",
    "RCMHA": "rcmha",
    "RandomFeatureAttention": "random_features",
    "SelectiveAttention": "temperature",
    "SelectiveTemperature": "temperature",
    "ShortConv": "conv",
    "TransNormer": "transnormer",
    "causal_conv1d": "conv",
    "causal_conv1d_step": "conv",
    "causal_flow_attention": "flow",
    "causal_inline_attention": "inline",
    "flow_attention": "flow",
    "inline_attention": "inline",
    "relu_attention": "random_features",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(importlib.import_module(f"saccade.nn.{_HOME[name]}"), name)
    raise AttributeError(f"module 'saccade.nn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_HOME]
