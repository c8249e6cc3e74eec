"""What the tests of saccade.nn share: agreement of a module with a float64 oracle, and sequences one by one."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn


def inputs(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stirred(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter moved away from its start, so that none is neutral; float64."""
    module, generator = module.double(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p += 0.2 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return module


def results(fn: Callable[..., Tensor], module: nn.Module, tensors: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Output, and the gradients of every tensor and parameter against one and the same random cotangent."""
    tensors = tuple(t.detach().clone().requires_grad_(t.is_floating_point()) for t in tensors)
    out = fn(*tensors)
    wanted = {f"input {n}": t for n, t in enumerate(tensors) if t.requires_grad} | dict(module.named_parameters())
    grads = torch.autograd.grad(
        (out * inputs(*out.shape, seed=99).to(out.dtype)).sum(), list(wanted.values()), allow_unused=True
    )
    named = {name: torch.zeros_like(t) if g is None else g for (name, t), g in zip(wanted.items(), grads, strict=True)}
    return {"out": out.detach()} | named


def close(got: Tensor, want: Tensor, tol: float = 1e-10, what: str = "") -> None:
    assert got.shape == want.shape, (what, got.shape, want.shape)
    worst = (got.double() - want).abs().max().item() if want.numel() else 0.0
    assert worst <= tol * (1 + want.abs().max().item() if want.numel() else 1), f"{what}: {worst}"


def agree(
    module: nn.Module,
    oracle: Callable[..., Tensor],
    *tensors: Tensor,
    call: Callable | None = None,
    single: bool = True,
) -> None:
    """`call(module, *tensors)` is `oracle(module, *tensors)`, with gradients: in float64 exactly, in float32 (unless
    not `single`) nearly."""
    call = call or (lambda m, *t: m(*t))
    exact = copy.deepcopy(module).double()
    want = results(lambda *t: oracle(exact, *t), exact, tensors)
    for dtype, tol in ((torch.float64, 1e-10), (torch.float32, 1e-4))[: 1 + single]:
        m = copy.deepcopy(module).to(dtype)
        cast = tuple(t.to(dtype) if t.is_floating_point() else t for t in tensors)
        for name, x in results(lambda *t, m=m: call(m, *t), m, cast).items():
            close(x, want[name], tol, f"{dtype} {name}")


def offsets(lengths) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).int()


def heads(x: Tensor, h: int) -> Tensor:
    """(B, N, C) -> (B, H, N, D)."""
    b, n, c = x.shape
    return x.reshape(b, n, h, c // h).permute(0, 2, 1, 3)


def joined(x: Tensor) -> Tensor:
    b, h, n, d = x.shape
    return x.permute(0, 2, 1, 3).reshape(b, n, h * d)
