"""Relative convolutional multi-head attention: causal depthwise convolutions of q, k, v and learned relative tables.

Source: "RCMHA: Relative Convolutional Multi-Head Attention for Natural Language Modelling" (arXiv:2308.03429).
Established: the definition, from the authors' code. Ours: distances clipped to the tables, grouped heads, packed
sequences, decode, and that the query's convolution may see the memory too (`q_conv_state="carry"`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

import saccade
from saccade.nn._sequence import checked, head_dim, merge, ordered, split, unrounded
from saccade.nn.conv import ShortConv


class RCMHAState(NamedTuple):
    k: Tensor  # (B, Hk, t, D), after the convolution
    v: Tensor
    q_conv: Tensor  # (B, kernel - 1, H D): the last inputs of each convolution
    k_conv: Tensor
    v_conv: Tensor


class RCMHA(nn.Module):
    """s_ij = D^-0.5 ((q_i + u_h) . k_j + q_i . R_hd + beta_hd), d = i - j; (B, N, C) -> (B, N, C), or packed (T, C).

    q, k and v go through causal depthwise convolutions along time whose weights all heads share. u, R and beta start
    at 0. Keys, values and queries see a memory (B, M, C), the previous segment's input, to which no gradient flows;
    the caller applies one and the same norm to it and to x.

    Args:
        width C; heads H; kv_heads H; kernel 3 tokens; causal True; dropout_p 0.0, of the weights, in training.
        distance: P, 4096: row P + d of the tables (H, 2P + 1, D) is of the distance d; farther ones take the edge's.
        q_conv_state: "carry": the query's convolution begins on the memory's last tokens, so that decode and segments
            agree; "zeros": on zeros, as published. Keys and values always carry.
    """

    def __init__(self, width: int, heads: int, *, kv_heads: int | None = None, kernel: int = 3, distance: int = 4096,
                 causal: bool = True, dropout_p: float = 0.0, q_conv_state: str = "carry"):  # fmt: skip
        super().__init__()
        checked("RCMHA", "q_conv_state", q_conv_state, ("carry", "zeros"))
        self.heads, self.kv_heads, self.causal = heads, kv_heads or heads, causal
        self.dropout_p, self.q_conv_state = dropout_p, q_conv_state
        dim = head_dim("RCMHA", width, heads, kv_heads)
        inner = dim * self.kv_heads
        self.q, self.k = nn.Linear(width, width, bias=False), nn.Linear(width, inner, bias=False)
        self.v, self.out = nn.Linear(width, inner), nn.Linear(width, width)
        self.q_conv = ShortConv(width, kernel, heads=heads)
        self.k_conv, self.v_conv = (ShortConv(inner, kernel, heads=self.kv_heads) for _ in range(2))
        self.u = nn.Parameter(torch.zeros(heads, dim))
        self.relative_keys = nn.Parameter(torch.zeros(heads, 2 * distance + 1, dim))
        self.relative_bias = nn.Parameter(torch.zeros(heads, 2 * distance + 1))

    def forward(self, x: Tensor, *, memory: Tensor | None = None, cu_seqlens: Tensor | None = None,
                initial_state: RCMHAState | None = None, return_state: bool = False):  # fmt: skip
        given = sum(a is not None for a in (memory, cu_seqlens, initial_state))
        if given > 1 or (cu_seqlens is not None and return_state):
            raise ValueError(
                "RCMHA: memory, cu_seqlens, initial_state: got more than one of them, wanted one; a state holds the "
                "memory already, and packed sequences begin anew and leave no state"
            )
        past = initial_state or RCMHAState(*[None] * 5)
        z, q_conv = x, past.q_conv
        if memory is not None:
            z = torch.cat([memory.detach(), x], 1)
            if self.q_conv_state == "carry":
                _, q_conv = self.q_conv(self.q(memory[:, -self.q_conv.before :].detach()), return_state=True)
        q, q_conv = self.q_conv(self.q(x), initial_state=q_conv, return_state=True, cu_seqlens=cu_seqlens)
        k, k_conv = self.k_conv(self.k(z), initial_state=past.k_conv, return_state=True, cu_seqlens=cu_seqlens)
        v, v_conv = self.v_conv(self.v(z), initial_state=past.v_conv, return_state=True, cu_seqlens=cu_seqlens)
        q, k, v = split(q, self.heads), split(k, self.kv_heads), split(v, self.kv_heads)
        if initial_state is not None:
            k, v = torch.cat([past.k, k], 2), torch.cat([past.v, v], 2)
        distance = self.relative_keys.shape[1] // 2
        reach = min(distance, max(k.shape[-2 if cu_seqlens is None else 0] - 1, 0))
        seen = slice(distance - reach, distance + reach + 1)  # no pair is farther apart
        keys, bias = self.relative_keys[:, seen], self.relative_bias[:, seen]
        with unrounded(x):
            bias = bias - (keys @ self.u[..., None])[..., 0]  # q + u meets the table too
        y = saccade.softmax_attention(
            q + (self.u[:, None] if cu_seqlens is None else self.u).to(q.dtype),
            k,
            v,
            causal=self.causal,
            dropout_p=self.dropout_p if self.training else 0.0,
            relative_keys=keys.to(q.dtype),
            relative_bias=bias,
            cu_seqlens_q=cu_seqlens,
            cu_seqlens_k=cu_seqlens,
        )
        out = self.out(merge(y))
        return (out, RCMHAState(k, v, q_conv, k_conv, v_conv)) if return_state else out

    @torch.no_grad()
    def step(self, x: Tensor, state: RCMHAState | None = None) -> tuple[Tensor, RCMHAState]:
        ordered(self)
        out, state = self(x[:, None], initial_state=state, return_state=True)
        return out[:, 0], state
