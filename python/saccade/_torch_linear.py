"""The torch side of linear attention: preparation, fake kernels, autograd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from saccade._torch import _cast, _dense_like, _no_double_backward, _no_vmap, _ops, _rows

_NAMES = ("q", "k", "v", "log_decay", "initial_state", "cu_seqlens")
_STEP_NAMES = ("q", "k", "v", "log_decay", "state")


def prepare(fn: str, tensors: tuple, step: bool) -> tuple:
    """Refuses what is no tensor or lies elsewhere; casts as autocast does for SDPA, decays and states to float32."""
    device = tensors[0].device
    if device.type not in ("cpu", "cuda", "meta"):
        raise ValueError(f"{fn}: q: got a tensor on {device}, wanted one on cpu or cuda; move q, k and v there")
    q, k, v, decay, *rest = tensors
    statistic = torch.float64 if q.dtype == torch.float64 else torch.float32
    if isinstance(decay, Sequence):
        decay = torch.tensor(decay, dtype=statistic, device=device)
    for name, t in zip(_STEP_NAMES if step else _NAMES, (q, k, v, decay, *rest), strict=True):
        if t is None and name not in "qkv" and name != "state":
            continue
        if not isinstance(t, Tensor):
            raise TypeError(f"{fn}: {name}: got {type(t).__name__}, wanted a torch.Tensor like q; pass a tensor")
        if t.device != device:
            raise ValueError(f"{fn}: {name}: got a tensor on {t.device}, wanted one on {device} like q; move it there")
    if device.type != "meta" and torch.is_autocast_enabled(device.type):
        low = torch.get_autocast_dtype(device.type)
        q, k, v = (_cast(t, low) for t in (q, k, v))
        statistic = torch.float64 if q.dtype == torch.float64 else torch.float32
    decay = _statistic(decay, statistic)
    if step:
        return q, k, v, decay, rest[0]
    return q, k, v, decay, _statistic(rest[0], statistic), rest[1]


def _statistic(t: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return t.to(dtype) if t is not None and t.is_floating_point() else t


def linear_attention(tensors: tuple, scalars: tuple, return_state: bool) -> tuple[Tensor, Tensor]:
    return _ops.linear_attention(*tensors, *scalars, return_state)


def linear_attention_backward(
    dout: Tensor, dstate: Tensor | None, out: Tensor | None, tensors: tuple, scalars: tuple
) -> tuple:
    needs = [t is not None for t in tensors[3:5]]
    results = _ops.linear_attention_backward(dout, dstate, out, *tensors, *scalars, needs)
    return tuple(result if need else None for result, need in zip(results, [True] * 3 + needs, strict=True))


def linear_attention_step(tensors: tuple, scalars: tuple) -> Tensor:
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        raise RuntimeError(
            "linear_attention_step: q: got tensors that require gradients, wanted none: the state is updated in place; "
            "use torch.no_grad(), or linear_attention with initial_state and return_state"
        )
    return _ops.linear_attention_step(*tensors, *scalars)


def explain(tensors: tuple, scalars: tuple, backward: bool) -> list[tuple[str, str, bool]]:
    return _candidates(_ops.explain_linear_attention(*tensors, *scalars, backward))


def explain_step(tensors: tuple, scalars: tuple) -> list[tuple[str, str, bool]]:
    return _candidates(_ops.explain_linear_attention_step(*tensors, *scalars))


def _candidates(text: str) -> list[tuple[str, str, bool]]:
    return [(name, reason, chosen == "1") for name, reason, chosen in _rows(text)]


def _state_rows(feature: str, dim: Any) -> Any:
    return 1 + dim + dim * (dim + 1) // 2 if feature == "taylor2" else dim


def _out_like(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    heads = max(t.shape[1] for t in (q, k, v))
    like = q if q.shape[1] == heads else _spread(q, heads)
    return _dense_like(like, v.shape[-1])


def _spread(q: Tensor, heads: int) -> Tensor:
    """As csrc/bindings/linear.h: the query's strides with another number of heads, for their order only."""
    sizes = list(q.shape)
    sizes[1] = heads
    order = sorted(range(q.dim()), key=lambda d: q.stride(d), reverse=True)
    return q.new_empty([sizes[d] for d in order]).permute([order.index(d) for d in range(q.dim())])


@torch.library.register_fake("saccade::linear_attention")
def _(
    query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor | None, initial: Tensor | None, cu: Tensor | None,
    scale: float, normalize: bool, epsilon: float, feature: str, *rest: Any,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    out = _out_like(query, key, value)
    statistic = torch.float64 if query.dtype == torch.float64 else torch.float32
    if not rest[-1]:
        return out, query.new_empty(0, dtype=torch.float32)
    batch = query.shape[0] if cu is None else cu.shape[0] - 1
    shape = (batch, out.shape[1], _state_rows(feature, query.shape[-1]), value.shape[-1] + normalize)
    return out, query.new_empty(shape, dtype=statistic)


@torch.library.register_fake("saccade::linear_attention_backward")
def _(dout: Tensor, dstate: Tensor | None, out: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:
    optional = [
        t.new_empty(t.shape) if need and t is not None else dout.new_empty(0, dtype=torch.float32)
        for need, t in zip(arguments[-1], arguments[3:5], strict=True)
    ]
    return (*(_dense_like(t) for t in arguments[:3]), *optional)


@torch.library.register_fake("saccade::linear_attention_step")
def _(query: Tensor, key: Tensor, value: Tensor, *rest: Any) -> Tensor:
    return _out_like(query, key, value)


def _setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    ctx.scalars, ctx.has_state = inputs[len(_NAMES) : -1], inputs[-1]
    normalize = ctx.scalars[1]
    ctx.save_for_backward(*inputs[: len(_NAMES)], output[0] if normalize else None)
    ctx.shape = output[0].shape
    ctx.set_materialize_grads(False)  # an unused state then costs nothing


def _backward(ctx: Any, dout: Tensor | None, dstate: Tensor | None) -> tuple:
    *tensors, out = ctx.saved_tensors
    if dout is None:
        dout = tensors[0].new_zeros(ctx.shape)
    if not ctx.has_state:
        dstate = None  # compiled code sends zeros for the empty tensor in its place
    needs = list(ctx.needs_input_grad[:5])
    gradients = _ops.linear_attention_backward(dout, dstate, out, *tensors, *ctx.scalars, needs[3:])
    gradients = (gradient if need else None for gradient, need in zip(gradients, needs, strict=True))
    return (*gradients, None, *[None] * (len(ctx.scalars) + 1))


torch.library.register_autograd("saccade::linear_attention", _backward, setup_context=_setup_context)
torch.library.register_autograd("saccade::linear_attention_backward", _no_double_backward)
for _op in ("linear_attention", "linear_attention_backward", "linear_attention_step"):
    _no_vmap(_op)
