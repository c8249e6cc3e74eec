"""Flow attention: linear attention whose sources compete and whose sinks are allocated by conservation of flow.

Source: "Flowformer: Linearizing Transformers with Conservation Flows" (arXiv:2202.06258). Established: the two forms
and the clamp of its code. Ours: padding, packed sequences and grouped heads; the causal form as a true recurrence in
running means, with a state and a decode step (`flow_causal.py`). Statistics are kept in float32, float64 for float64.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import saccade
from saccade.nn._sequence import (
    checked,
    grown,
    head_dim,
    merge,
    ordered,
    padded_or_packed,
    sequence_of,
    split,
    statistic,
    unrounded,
)
from saccade.nn.flow_causal import FlowState, causal_flow_attention, causal_flow_attention_step

FEATURES = {"sigmoid": torch.sigmoid, "relu": lambda x: torch.relu(x) + 1e-6}

__all__ = ["FlowAttention", "FlowState", "causal_flow_attention", "causal_flow_attention_step", "flow_attention"]


def flow_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    clamp: float | None = 1.0,
    epsilon: float = 1e-6,
    query_mask: Tensor | None = None,
    key_mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
) -> Tensor:
    """Flow attention without an order of tokens, of q and k that are non-negative already (`FEATURES`).

    With n real queries, m real keys and epsilon added to every component of the sums and of the outer q_i, k_j::

        I_i = q_i . sum_j k_j            O_j = k_j . sum_i q_i                   flows in and out
        I'_i = q_i . sum_j k_j / O_j     O'_j = clamp(k_j . sum_i q_i / I_i)     conserved
        out_i = sigmoid(I'_i n / m) (q_i / I_i) . sum_j k_j (m softmax_j(O')_j v_j)

    The mean of O' is n / m: for n = m a clamp of 1 saturates about half of the sources, which then get no gradient
    through O'. That is the published behaviour.

    Args:
        q: (B, H, N, D), or packed (T, H, D). There is no scale.
        k: (B, Hk, M, D), H a multiple of Hk; packed (T, Hk, D).
        v: (B, Hk, M, Dv) or (T, Hk, Dv).
        clamp: bound of O', both sides; None: none. Published: 1, 5 (language), 10 (control), none (time series).
        query_mask, key_mask: bool (B, N), (B, M), True = a real token; out is 0 where a query is not.
        cu_seqlens: int32 (B + 1,), packed self-attention.

    Returns: out (B, H, N, Dv) or (T, H, Dv), dtype of v.
    """
    padded_or_packed("flow_attention", key_mask if query_mask is None else query_mask, cu_seqlens)
    dtype, acc, heads = v.dtype, statistic(v.dtype), q.shape[1]
    q, k, v = q.to(acc), grown(k, heads).to(acc), grown(v, heads).to(acc)
    real_q, real_k = _real(query_mask, q), _real(key_mask, k)
    q, k = q * real_q, k * real_k
    total = _totals(cu_seqlens, q.shape[0])
    n, m = total(real_q), total(real_k).clamp(min=1)
    incoming = ((q + epsilon) * (total(k) + epsilon)).sum(-1, keepdim=True)
    outgoing = ((k + epsilon) * (total(q) + epsilon)).sum(-1, keepdim=True)
    conserved_in = ((q + epsilon) * (total(k / outgoing) + epsilon)).sum(-1, keepdim=True)
    conserved_out = ((k + epsilon) * (total(q / incoming) + epsilon)).sum(-1, keepdim=True)
    if clamp is not None:
        conserved_out = conserved_out.clamp(-clamp, clamp)
    e = torch.exp(conserved_out - _peak(conserved_out.detach(), cu_seqlens)) * real_k  # the peak is of a real token
    v = m * e / total(e).clamp(min=1) * v
    with unrounded(q):  # q / incoming is of the order of 1 / m
        if cu_seqlens is None and q.shape[2] != k.shape[2]:
            y = (q / incoming) @ (k.transpose(-1, -2) @ v)
        else:
            y = saccade.linear_attention(q / incoming, k, v, causal=False, cu_seqlens=cu_seqlens)
    return (torch.sigmoid(conserved_in * n / m) * y).to(dtype)


def _real(mask: Tensor | None, x: Tensor) -> Tensor:
    """(B, 1, N, 1), packed (T, 1, 1), in x's dtype."""
    return x.new_ones(x.shape[0], 1, *x.shape[2:-1], 1) if mask is None else mask[:, None, :, None].to(x.dtype)


def _totals(cu_seqlens: Tensor | None, tokens: int):
    """Sums over the tokens of a sequence, (B, H, 1, D), packed repeated for each of its tokens."""
    if cu_seqlens is None:
        return lambda x: x.sum(2, keepdim=True)
    sequence, batch = sequence_of(cu_seqlens, tokens), cu_seqlens.shape[0] - 1
    return lambda x: x.new_zeros(batch, *x.shape[1:]).index_add(0, sequence, x)[sequence]


def _peak(x: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    if cu_seqlens is None:
        return x.amax(2, keepdim=True) if x.shape[2] else x.sum(2, keepdim=True)
    sequence = sequence_of(cu_seqlens, x.shape[0])
    peaks = x.new_full((cu_seqlens.shape[0] - 1, *x.shape[1:]), float("-inf"))
    return peaks.scatter_reduce(0, sequence[:, None, None].expand(x.shape), x, "amax")[sequence]


class FlowAttention(nn.Module):
    """Self-attention by flow, (B, N, C) -> (B, N, C), or packed (T, C).

    Args: width C; heads H; kv_heads H; causal False; clamp 1.0 (None: none); feature "sigmoid", or "relu" (relu + 1e-6,
    of the long-range-arena code); bias True, of the four projections.
    """

    def __init__(self, width: int, heads: int, *, kv_heads: int | None = None, causal: bool = False,
                 clamp: float | None = 1.0, feature: str = "sigmoid", bias: bool = True):  # fmt: skip
        super().__init__()
        checked("FlowAttention", "feature", feature, tuple(FEATURES))
        self.heads, self.kv_heads, self.causal, self.clamp = heads, kv_heads or heads, causal, clamp
        self.feature = feature
        inner = head_dim("FlowAttention", width, heads, kv_heads) * self.kv_heads
        self.q, self.out = nn.Linear(width, width, bias=bias), nn.Linear(width, width, bias=bias)
        self.k, self.v = nn.Linear(width, inner, bias=bias), nn.Linear(width, inner, bias=bias)

    def _qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        feature = FEATURES[self.feature]
        q, k = (feature(y.to(statistic(y.dtype))) for y in (self.q(x), self.k(x)))
        return split(q, self.heads), split(k, self.kv_heads), split(self.v(x), self.kv_heads)

    def forward(self, x: Tensor, *, mask: Tensor | None = None, cu_seqlens: Tensor | None = None,
                initial_state: FlowState | None = None, return_state: bool = False):  # fmt: skip
        """mask: bool (B, N), True = a real token. States only with `causal`."""
        if self.causal:
            y, state = causal_flow_attention(
                *self._qkv(x), clamp=self.clamp, mask=mask, cu_seqlens=cu_seqlens, initial_state=initial_state
            )
            out = self.out(merge(y))
            return (out, state) if return_state else out
        if return_state or initial_state is not None:
            raise ValueError("FlowAttention: return_state, initial_state: got a state, wanted none; pass causal=True")
        y = flow_attention(*self._qkv(x), clamp=self.clamp, query_mask=mask, key_mask=mask, cu_seqlens=cu_seqlens)
        return self.out(merge(y))

    @torch.no_grad()
    def step(self, x: Tensor, state: FlowState | None = None) -> tuple[Tensor, FlowState]:
        ordered(self)
        y, state = causal_flow_attention_step(*self._qkv(x), state, clamp=self.clamp)
        return self.out(merge(y)), state
