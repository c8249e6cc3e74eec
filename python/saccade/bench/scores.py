"""The bars of sigmoid attention: against our softmax and torch's, and the accuracy of small weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch

import saccade

from .cases import Case, lane, verify
from .kit import alternate


def backward_alone(case: Case):
    """A call of the backward only, on what the forward left."""
    qkv, dout = dataclasses.replace(case, backward=False).inputs()
    options = case.options()
    if case.score == "softmax":
        kept = saccade.softmax_attention(*qkv, return_lse=True, causal=case.causal)
    else:
        kept = (None, None)
    return lambda: saccade.attention_backward(dout, *qkv, *kept, **options)


def worst_relative_error() -> float:
    """Of weights down to about 1e-7, seen through values that are the unit matrix."""
    g = torch.Generator().manual_seed(0)
    q, k = (3 * torch.randn(1, 1, 256, 64, generator=g) for _ in range(2))
    eye = torch.eye(256)[None, None]
    worst = 0.0
    for bias in (-12.0, -6.0, 0.0, 6.0):
        got = saccade.sigmoid_attention(q, k, eye, score_bias=bias, scale=1 / 64).double()
        want = torch.sigmoid(q.double() @ k.double().mT / 64 + bias)
        worst = max(worst, ((got - want).abs() / want).max().item())
    return worst


def bars(budget: float) -> Iterator:
    from .bars import at_least, at_most

    for causal in (False, True):
        softmax = Case(2048, causal=causal)
        sigmoid = dataclasses.replace(softmax, score="sigmoid")
        verify(sigmoid)
        lanes = {"sigmoid": lane(sigmoid, sigmoid.ours), "softmax": lane(softmax, softmax.ours)}
        timing = alternate(lanes | {"torch": lane(softmax, softmax.rival)}, budget)
        detail = f"{1e3 * timing.seconds['sigmoid']:.1f} ms"
        yield at_least(f"{sigmoid.name} vs our softmax", 1.05, timing.ratio("softmax", "sigmoid"), detail=detail)
        yield at_least(f"{sigmoid.name} vs torch softmax", 1.3, timing.ratio("torch", "sigmoid"), detail=detail)
        verify(dataclasses.replace(sigmoid, backward=True))
        timing = alternate({"sigmoid": backward_alone(sigmoid), "softmax": backward_alone(softmax)}, budget)
        detail = f"{1e3 * timing.seconds['sigmoid']:.1f} ms"
        name = sigmoid.name.replace("fwd", "backward alone")
        yield at_least(f"{name} vs our softmax", 1.05, timing.ratio("softmax", "sigmoid"), detail=detail)
    yield at_most("sigmoid weights down to 1e-7, relative error, 1e-5", 1.0, worst_relative_error() / 1e-5)
