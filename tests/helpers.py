"""Calls of the library as the tests make them."""

from __future__ import annotations

import pytest
import saccade
import torch
from cases import Inputs
from torch import Tensor


def device() -> str:
    """Where the forced kernel's tensors lie: a CUDA kernel's on the card, or, emulated, in host memory."""
    return "cuda" if saccade.kernels.forced().startswith("cuda.") and torch.cuda.is_available() else "cpu"


def needs_relative_tables() -> None:
    """Skips the test where the forced kernel has none."""
    if saccade.kernels.forced().startswith("cuda."):
        pytest.skip("CUDA kernels have no relative tables")


def forward(inputs: Inputs) -> tuple[Tensor, Tensor]:
    if {"relative_keys", "relative_bias"} & inputs.tensors.keys():
        needs_relative_tables()
    if "score" in inputs.options:  # in the place of lse zeros, as the oracle has them
        return saccade.attention(*inputs.qkv, **inputs.kwargs), (inputs.tensors["query"] * 0).sum(
            -1, dtype=inputs.dlse.dtype
        )
    return saccade.softmax_attention(*inputs.qkv, return_lse=True, **inputs.kwargs)


def run(inputs: Inputs, with_lse: bool = True) -> dict[str, Tensor]:
    """Outputs and gradients under the names of `reference.gradients`."""
    inputs = inputs.to(device()).requiring_grad()
    out, lse = forward(inputs)
    wanted = {k: t for k, t in inputs.tensors.items() if t.requires_grad}
    outputs, seeds = ((out, lse), (inputs.dout, inputs.dlse)) if with_lse else ((out,), (inputs.dout,))
    grads = torch.autograd.grad(outputs, list(wanted.values()), seeds)
    for (name, t), g in zip(wanted.items(), grads, strict=True):
        assert g.dtype == t.dtype and g.shape == t.shape, (name, g.dtype, t.dtype, g.shape, t.shape)
    results = {"out": out.detach(), "lse": lse.detach()} | {f"d{k}": g for k, g in zip(wanted, grads, strict=True)}
    return {name: t.cpu() for name, t in results.items()}


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 7919 * len(shape))
    return torch.randn(shape, generator=generator, dtype=dtype).to(device())


def qkv(B: int = 1, Hq: int = 2, Hk: int = 1, Nq: int = 20, Nk: int = 33, D: int = 16, Dv: int | None = None,
        seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    shapes = (B, Hq, Nq, D), (B, Hk, Nk, D), (B, Hk, Nk, Dv or D)
    return tuple(random(*s, seed=seed + 1000 * n, dtype=dtype) for n, s in enumerate(shapes))


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    """Bitwise equality of results, NaN equal to NaN."""
    for name in a:
        assert a[name].shape == b[name].shape, name
        equal = torch.equal(a[name].nan_to_num(123.0), b[name].nan_to_num(123.0))
        assert equal, f"{name}: {(a[name] != b[name]).sum().item()} of {a[name].numel()} differ"


def close(a: Tensor, b: Tensor, factor: float = 1.0) -> None:
    """Equality within the rounding of `a`'s dtype, for identities that hold in exact arithmetic."""
    tol = {torch.float64: 1e-11, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}[a.dtype] * factor
    torch.testing.assert_close(a, b.to(a.dtype), rtol=tol, atol=tol)
