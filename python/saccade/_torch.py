"""The torch side: loads the operators, and registers their fake kernels, autograd and refusals."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saccade.attention import _arguments

_LIBRARY = Path(__file__).with_name("libsaccade_torch.so")
if not _LIBRARY.exists():
    raise ImportError(
        f"saccade: {_LIBRARY.name} is not beside {Path(__file__).name}: this installation was built without torch; "
        "build it again with torch >= 2.10 at hand"
    )
torch.ops.load_library(str(_LIBRARY))
_ops = torch.ops.saccade

_PARAMETERS = (
    *("bias", "alibi_slopes", "temperature", "sinks", "head_gate", "score_bias"),
    *("relative_keys", "relative_bias"),
)
_NAMES = ("q", "k", "v", *_PARAMETERS, "cu_seqlens_q", "cu_seqlens_k")
_OPTIONAL = slice(3, 11)  # those with a gradient


def prepare(fn: str, tensors: tuple) -> tuple:
    """Refuses what is no tensor or lies elsewhere; casts as autocast does for SDPA, and parameters to lse's type."""
    device = tensors[0].device
    if device.type not in ("cpu", "cuda", "meta"):
        raise ValueError(f"{fn}: q: got a tensor on {device}, wanted one on cpu or cuda; move q, k and v there")
    for name, t in zip(_NAMES, tensors, strict=True):
        if t is None and name not in "qkv":
            continue
        if not isinstance(t, Tensor):
            raise TypeError(f"{fn}: {name}: got {type(t).__name__}, wanted a torch.Tensor like q; pass a tensor")
        if t.device != device:
            raise ValueError(f"{fn}: {name}: got a tensor on {t.device}, wanted one on {device} like q; move it there")
    q, k, v, bias, *parameters, relative_keys, relative_bias, cu_q, cu_k = tensors
    if device.type != "meta" and torch.is_autocast_enabled(device.type):
        low = torch.get_autocast_dtype(device.type)
        q, k, v = (_cast(t, low) for t in (q, k, v))
        if bias is not None and bias.dtype != torch.float32:
            bias = _cast(bias, low)
        if relative_keys is not None:
            relative_keys = _cast(relative_keys, low)
    statistic = torch.float64 if q.dtype == torch.float64 else torch.float32
    *parameters, relative_bias = (
        p.to(statistic) if p is not None and p.is_floating_point() else p for p in (*parameters, relative_bias)
    )
    return (q, k, v, bias, *parameters, relative_keys, relative_bias, cu_q, cu_k)


def _cast(t: Tensor, dtype: torch.dtype) -> Tensor:
    return t.to(dtype) if t.is_floating_point() and t.dtype != torch.float64 else t


def attention(tensors: tuple, scalars: tuple) -> tuple[Tensor, Tensor]:
    return _ops.attention(*tensors, *scalars)


def attention_backward(
    dout: Tensor, dlse: Tensor | None, out: Tensor | None, lse: Tensor | None, tensors: tuple, scalars: tuple
) -> tuple:
    needs = [t is not None and t.is_floating_point() for t in tensors[_OPTIONAL]]
    results = _ops.attention_backward(dout, dlse, out, lse, *tensors, *scalars, needs)
    return tuple(result if need else None for result, need in zip(results, [True] * 3 + needs, strict=True))


def explain(tensors: tuple, scalars: tuple, backward: bool) -> list[tuple[str, str, bool]]:
    rows = _rows(_ops.explain_attention(*tensors, *scalars, backward))
    return [(name, reason, chosen == "1") for name, reason, chosen in rows]


def kernels() -> list[tuple[str, str, str]]:
    return [(op, name, reason) for op, name, reason in _rows(_ops.kernels())]


cpu_isa = _ops.cpu_isa
version = _ops.version


def _rows(text: str) -> list[list[str]]:
    return [line.split("\t") for line in text.splitlines()]


def draw_seed() -> int:
    return int(torch.randint(2**63 - 1, ()))


def _dense_like(t: Tensor, last: Any = None) -> Tensor:
    """As csrc/bindings/problem.h: the order of t's strides, last dimension innermost; contiguous if a stride is 0."""
    sizes, rank = list(t.shape), t.dim()
    if last is not None:
        sizes[-1] = last
    strides = t.stride()
    if rank < 3 or any(s == 0 for s in strides[:-1]):
        return t.new_empty(sizes)
    order = [*sorted(range(rank - 1), key=lambda d: strides[d], reverse=True), rank - 1]
    return t.new_empty([sizes[d] for d in order]).permute([order.index(d) for d in range(rank)])


@torch.library.register_fake("saccade::attention")
def _(query: Tensor, key: Tensor, value: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    statistic = torch.float64 if query.dtype == torch.float64 else torch.float32
    lse = query.new_empty(query.shape[:-1] if rest[10] == "softmax" else 0, dtype=statistic)
    return _dense_like(query, value.shape[-1]), lse


@torch.library.register_fake("saccade::attention_backward")
def _(dout: Tensor, dlse: Tensor | None, out: Tensor | None, lse: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:
    needs = arguments[-1]
    optional = [
        t.new_empty(t.shape) if need and t is not None else dout.new_empty(0, dtype=torch.float32)
        for need, t in zip(needs, arguments[_OPTIONAL], strict=True)
    ]
    return (*(_dense_like(t) for t in arguments[:3]), *optional)


def _setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    tensors, scalars = inputs[: len(_NAMES)], inputs[len(_NAMES) :]
    ctx.save_for_backward(*tensors, *(output if scalars[0] == "softmax" else (None, None)))
    ctx.scalars = scalars
    ctx.set_materialize_grads(False)  # an unused lse then costs nothing


def _backward(ctx: Any, dout: Tensor | None, dlse: Tensor | None) -> tuple:
    *tensors, out, lse = ctx.saved_tensors
    if dout is None:
        dout = torch.zeros_like(out)  # the loss is of lse alone, which softmax only has
    needs = list(ctx.needs_input_grad[: _OPTIONAL.stop])
    gradients = _ops.attention_backward(dout, dlse, out, lse, *tensors, *ctx.scalars, needs[3:])
    gradients = (gradient if need else None for gradient, need in zip(gradients, needs, strict=True))
    return (*gradients, *[None] * (2 + len(ctx.scalars)))


torch.library.register_autograd("saccade::attention", _backward, setup_context=_setup_context)


def _no_double_backward(ctx: Any, *_: Any) -> tuple:
    raise RuntimeError(
        "saccade: double backward is not supported; drop create_graph=True, or write this term in torch's own "
        "operations (torch.nn.functional.scaled_dot_product_attention with its math backend has one)"
    )


torch.library.register_autograd("saccade::attention_backward", _no_double_backward)


def _no_vmap(op: str) -> None:
    @torch.library.register_vmap(f"saccade::{op}")
    def _(*_: Any) -> tuple:
        raise NotImplementedError(
            f"saccade: {op}: vmap is not supported; the functions take a batch dimension: fold the mapped one into it"
        )


for _op in ("attention", "attention_backward"):
    _no_vmap(_op)


def sdpa(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
) -> Tensor:
    operands = (query, key, value)
    for name, t in zip(("query", "key", "value"), operands, strict=True):
        if not isinstance(t, Tensor) or t.dim() < 2:
            got = f"{t.dim()} dimensions" if isinstance(t, Tensor) else type(t).__name__
            raise ValueError(f"sdpa: {name}: got {got}, wanted a tensor (..., H, N, D); pass at least (N, D)")
    if is_causal and attn_mask is not None:
        raise RuntimeError(
            "sdpa: attn_mask: got a tensor with is_causal=True, wanted one of them; fold causality into attn_mask"
        )
    masks = () if attn_mask is None else (attn_mask,)
    batch = torch.broadcast_shapes(*(t.shape[:-3] for t in (*operands, *masks)))
    query, key, value = (_with_batch(t, batch) for t in operands)
    heads, key_heads = query.shape[1], key.shape[1]
    if heads != key_heads and not enable_gqa:
        if heads == 1:
            query = query.expand(-1, key_heads, -1, -1)
        elif key_heads != 1:
            raise ValueError(
                f"sdpa: key: got {key_heads} heads, wanted the query's {heads}, or 1; enable_gqa=True shares keys"
            )
    window = None
    if is_causal:  # key j <= i is j <= p_i + (Nq - Nk), and keys from Nq on are seen by nobody
        tokens = query.shape[2]
        if tokens < key.shape[2]:
            key, value = key[:, :, :tokens], value[:, :, :tokens]
        window = (-1, tokens - key.shape[2])
    backend, tensors, scalars = _arguments(
        "sdpa", query, key, value, window=window, scale=scale, dropout_p=dropout_p, bias=_mask(attn_mask, batch)
    )
    out, _ = backend.attention(tensors, scalars)
    per_head = any(t.dim() > 2 for t in operands)
    return out.reshape(*batch, *(out.shape[1:] if per_head else out.shape[2:]))


def _with_batch(t: Tensor, batch: tuple[int, ...]) -> Tensor:
    """(..., [H,] N, D) as (B, H, N, D) with B the product of the broadcast leading sizes."""
    if t.dim() == 2:
        t = t[None]
    return t.expand(*batch, *t.shape[-3:]).reshape(math.prod(batch), *t.shape[-3:])


def _mask(mask: Tensor | None, batch: tuple[int, ...]) -> Tensor | None:
    """The same for a mask (..., [H,] [Nq,] Nk), which keeps sizes of 1 where it can."""
    if mask is None:
        return None
    mask = mask.reshape(*[1] * (len(batch) + 3 - mask.dim()), *mask.shape)
    if all(size == 1 for size in mask.shape[:-3]):
        return mask.reshape(1, *mask.shape[-3:])
    return _with_batch(mask, batch)
