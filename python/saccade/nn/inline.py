"""InLine attention: linear attention normalised by subtraction, so that different queries get different weights.

Source: "Bridging the Divide: Reconsidering Softmax and Linear Attention" (arXiv:2412.06590). Established: the global
form and the local residual. Ours: the centred evaluation, packed sequences, rectangular grids, the causal form.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

import saccade
from saccade.nn._sequence import Clock, clock, head_dim, merge, ordered, sequence_of, split, statistic
from saccade.nn.local_residual import LocalResidual


class InLineState(NamedTuple):
    """Means over the past, float32 or float64."""

    count: Tensor  # (B,) int64
    k: Tensor  # (B, Hk, 1, D)
    v: Tensor  # (B, Hk, 1, Dv)
    kv: Tensor  # (B, H, D, Dv): mean (k - mean k)^T (v - mean v)


def inline_attention(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None,
                     cu_seqlens: Tensor | None = None) -> Tensor:  # fmt: skip
    """The weights c (q_i . k_s - mean_r q_i . k_r) + 1 / N, c = scale / N, which sum to 1 and may be negative.

    Evaluated centred, without cancellation: out_i = mean v + c q_i . sum_s (k_s - mean k)^T (v_s - mean v).

    Args: q (B, H, N, D), k (B, Hk, N, D), v (B, Hk, N, Dv), or packed (T, H, D) with cu_seqlens; scale D ** -0.5.
    Returns: out (B, H, N, Dv) or (T, H, Dv), dtype of q.
    """
    scale, acc = q.shape[-1] ** -0.5 if scale is None else scale, statistic(q.dtype)
    if cu_seqlens is None:
        mean_k, mean_v = (x.mean(2, keepdim=True, dtype=acc) for x in (k, v))
        root = max(k.shape[2], 1) ** -0.5
    else:
        sequence = sequence_of(cu_seqlens, q.shape[0])
        count = cu_seqlens.diff().to(acc)[:, None, None]
        mean_k, mean_v = (
            (x.new_zeros(len(count), *x.shape[1:], dtype=acc).index_add(0, sequence, x.to(acc)) / count)[sequence]
            for x in (k, v)
        )
        root = count[sequence].rsqrt()
    # 1 / N goes half on k and half on v: a half-precision operand keeps its range
    k, centred = (((x - mean) * root).to(q.dtype) for x, mean in ((k, mean_k), (v, mean_v)))
    y = saccade.linear_attention(q, k, centred, scale=scale, causal=False, cu_seqlens=cu_seqlens)
    return (y + mean_v.repeat_interleave(q.shape[1] // v.shape[1], 1)).to(q.dtype)


def causal_inline_attention(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, cu_seqlens: Tensor | None = None,
    initial_state: InLineState | None = None,
) -> tuple[Tensor, InLineState]:  # fmt: skip
    """The same with N replaced by t: token t sees what `inline_attention` over the first t tokens gives.

    Returns: out, and the state after the last token. Statistics in float32 at least.
    """
    start = None if initial_state is None else initial_state.count
    return _causal(q, k, v, scale, initial_state, clock(q, start, cu_seqlens=cu_seqlens))


@torch.no_grad()
def causal_inline_attention_step(q: Tensor, k: Tensor, v: Tensor, state: InLineState | None, *,
                                 scale: float | None = None) -> tuple[Tensor, InLineState]:  # fmt: skip
    """One token: q (B, H, D), k (B, Hk, D), v (B, Hk, Dv) -> out (B, H, Dv) and the state, its tensors overwritten."""
    return _causal(q, k, v, scale, state, clock(q, None if state is None else state.count, one=True))


def _causal(q: Tensor, k: Tensor, v: Tensor, scale: float | None, state: InLineState | None, now: Clock):
    dtype, acc, scale = q.dtype, statistic(q.dtype), q.shape[-1] ** -0.5 if scale is None else scale
    q, k, v = q.to(acc), k.to(acc), v.to(acc)
    past = state or InLineState(*[None] * 4)
    ones = k.new_ones(*k.shape[:-1], 1)
    mean_k, last_k = now.mean(ones, ones, k, past.k)
    mean_v, last_v = now.mean(ones, ones, v, past.v)
    # sum_s (k_s - mean_t k)^T (v_s - mean_t v) grows by t / (t-1) (k_t - mean_t k)^T (v_t - mean_t v); 0 at t = 1
    ahead = (now.t / (now.t - 1).clamp(min=1))[..., None]
    y, last_kv = now.mean(q * scale, k - mean_k, (v - mean_v) * ahead, past.kv)
    y = y + mean_v.repeat_interleave(q.shape[1] // v.shape[1], 1)
    return y.to(dtype), InLineState(now.count, last_k, last_v, last_kv)


class InLineAttention(nn.Module):
    """Self-attention, (B, N, C) -> (B, N, C), or packed (T, C); with `residual` a grid of tokens and its filter.

    Args: width C; heads H; causal False; residual False; bias True of q, k, v; scale D ** -0.5.
    """

    def __init__(self, width: int, heads: int, *, causal: bool = False, residual: bool = False, bias: bool = True,
                 scale: float | None = None):  # fmt: skip
        super().__init__()
        if causal and residual:
            raise ValueError("InLineAttention: residual: got True with causal, wanted False; a grid has no order")
        head_dim("InLineAttention", width, heads)
        self.heads, self.causal, self.scale = heads, causal, scale
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=bias), nn.Linear(width, width)
        self.residual = LocalResidual(width, heads) if residual else None

    def forward(self, x: Tensor, *, grid: tuple[int, int] | None = None, cu_seqlens: Tensor | None = None,
                initial_state: InLineState | None = None, return_state: bool = False):  # fmt: skip
        """grid: (rows, columns) of the last tokens, with `residual`. States only with `causal`."""
        if not self.causal and (return_state or initial_state is not None):
            raise ValueError("InLineAttention: return_state, initial_state: got a state, wanted none; pass causal=True")
        if (grid is None or cu_seqlens is not None) and self.residual is not None:
            raise ValueError("InLineAttention: grid: got none, or cu_seqlens, wanted (rows, columns) and x (B, N, C)")
        qkv = self.qkv(x).chunk(3, -1)
        q, k, v = (split(y, self.heads) for y in qkv)
        if self.causal:
            y, state = causal_inline_attention(
                q, k, v, scale=self.scale, cu_seqlens=cu_seqlens, initial_state=initial_state
            )
            out = self.out(merge(y))
            return (out, state) if return_state else out
        y = merge(inline_attention(q, k, v, scale=self.scale, cu_seqlens=cu_seqlens))
        return self.out(y if self.residual is None else y + self.residual(x, qkv[2], grid))

    @torch.no_grad()
    def step(self, x: Tensor, state: InLineState | None = None) -> tuple[Tensor, InLineState]:
        ordered(self)
        q, k, v = (split(y, self.heads) for y in self.qkv(x).chunk(3, -1))
        y, state = causal_inline_attention_step(q, k, v, state, scale=self.scale)
        return self.out(merge(y)), state
