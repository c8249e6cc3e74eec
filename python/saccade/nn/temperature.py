"""Selective self-attention: a learned inverse temperature per token, of queries (logits), values, or keys.

Source: "Selective Attention: Enhancing Transformer through Principled Context Control" (arXiv:2411.12892).
Established: the position-aware form of the authors' code ("repo", "linear"). Not established there, and taken from
independent re-implementations: "paper", the token-aware part, the shared projections. Ours: heads, packing, windows,
the start values (tau about 1), and that the part that is off is the limit in which it says 1, respectively 0.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import saccade
from saccade.nn._sequence import checked, head_dim, merge, ordered, place_of, sequence_of, split, statistic

POSITION = {  # start value; factor of ln i
    "paper": (-4.5, torch.sigmoid),
    "repo": (1.5, lambda b: torch.exp(-torch.exp(b))),
    "linear": (1e-5, lambda b: b),
}
PARTS = (None, "pos", "tok", "pos+tok")


class SelectiveTemperature(nn.Module):
    """tau = 1 + r(alpha) ln i + tanh(f(x)), (B, H, N) or packed (T, H), float32 (float64 for float64).

    Args:
        parts: "pos" keeps r(alpha) ln i, "tok" keeps tanh(f(x)), "pos+tok" both.
        features: channels of what f gets. shared: f(x) = w . GELU(x), x being a projection that exists already (only w
            is new); else f = w . x + b of the layer's input.
        position: r: "paper" sigmoid(alpha), "repo" exp(-exp(alpha)), "linear" alpha.
        heads: H temperatures a token; 1: shared by all heads.
    """

    def __init__(self, parts: str, features: int, *, shared: bool = True, position: str = "paper", heads: int = 1):
        super().__init__()
        checked("SelectiveTemperature", "parts", parts, PARTS[1:])
        checked("SelectiveTemperature", "position", position, tuple(POSITION))
        self.shared, self.position = shared, position
        self.alpha = nn.Parameter(torch.full((heads,), POSITION[position][0])) if "pos" in parts else None
        self.token = nn.Linear(features, heads, bias=not shared) if "tok" in parts else None
        if self.token is not None:
            nn.init.normal_(self.token.weight, std=0.02)

    def forward(self, x: Tensor, count: Tensor) -> Tensor:
        """x (B, N, F) or packed (T, F); count i >= 1, the number of visible tokens, (N,), (B, N) or (T,)."""
        acc = statistic(x.dtype)
        tau = torch.ones(1, dtype=acc, device=x.device)
        if self.alpha is not None:
            tau = tau + POSITION[self.position][1](self.alpha.to(acc)) * count.to(acc).log()[..., None]
        if self.token is not None:
            tau = tau + torch.tanh(self.token(F.gelu(x) if self.shared else x).to(acc))
        tau = tau.expand(*x.shape[:-1], tau.shape[-1])
        return tau.transpose(1, 2) if x.dim() == 3 else tau


class SelectiveState(NamedTuple):
    """Keys and values so far, their temperatures applied: (B, Hk, t, D)."""

    k: Tensor
    v: Tensor


class SelectiveAttention(nn.Module):
    """out_i = sum_j softmax_j(tau_q(i) D^-0.5 q_i . tau_k(j) k_j) tau_v(j) v_j.

    (B, N, C) -> (B, N, C), or packed (T, C).

    Args:
        width C; heads H; kv_heads H; causal True; window None, or tokens to the left (causal).
        query, value, key: None, "pos", "tok" or "pos+tok". Published: queries and values; keys are an ablation.
        position, shared: as in `SelectiveTemperature`; the projection that is shared is q's, k's or v's own.
        per_head: a temperature per head.
        count: i of a causal row: "absolute", its place from 1, or "visible", at most window + 1. Without `causal` N.
    """

    def __init__(self, width: int, heads: int, *, kv_heads: int | None = None, causal: bool = True,
                 window: int | None = None, query: str | None = "pos+tok", value: str | None = "pos+tok",
                 key: str | None = None, position: str = "paper", shared: bool = True, per_head: bool = False,
                 count: str = "absolute", bias: bool = True):  # fmt: skip
        super().__init__()
        checked("SelectiveAttention", "count", count, ("absolute", "visible"))
        if window is not None and not causal:
            raise ValueError(f"SelectiveAttention: window: got {window} without causal, wanted None; pass causal=True")
        self.heads, self.kv_heads, self.causal, self.window = heads, kv_heads or heads, causal, window
        self.limit = window + 1 if window is not None and count == "visible" else None
        inner = head_dim("SelectiveAttention", width, heads, kv_heads) * self.kv_heads
        self.q, self.out = nn.Linear(width, width, bias=bias), nn.Linear(width, width, bias=bias)
        self.k, self.v = nn.Linear(width, inner, bias=bias), nn.Linear(width, inner, bias=bias)
        self.temperatures = nn.ModuleDict()
        for name, parts, size, h in (
            ("query", query, width, heads), ("key", key, inner, self.kv_heads), ("value", value, inner, self.kv_heads)
        ):  # fmt: skip
            checked("SelectiveAttention", name, parts, PARTS)
            if parts is not None:
                self.temperatures[name] = SelectiveTemperature(
                    parts, size if shared else width, shared=shared, position=position, heads=h if per_head else 1
                )

    def _count(self, x: Tensor, before: int, cu_seqlens: Tensor | None) -> Tensor:
        if cu_seqlens is not None:
            i = place_of(cu_seqlens, len(x)) + 1 if self.causal else cu_seqlens.diff()[sequence_of(cu_seqlens, len(x))]
        else:
            first, n = before + 1, before + x.shape[1]
            i = torch.arange(first, n + 1, device=x.device) if self.causal else torch.full((1,), n, device=x.device)
        return i if self.limit is None else i.clamp(max=self.limit)

    def _tau(self, name: str, x: Tensor, projected: Tensor, count: Tensor) -> Tensor | None:
        if name not in self.temperatures:
            return None
        tau = self.temperatures[name]
        return tau(projected if tau.shared else x, count)

    def forward(self, x: Tensor, *, cu_seqlens: Tensor | None = None, initial_state: SelectiveState | None = None,
                return_state: bool = False):  # fmt: skip
        if cu_seqlens is not None and (return_state or initial_state is not None):
            raise ValueError("SelectiveAttention: cu_seqlens: got it with a state, wanted one of them; pad the batch")
        q, k, v = self.q(x), self.k(x), self.v(x)
        count = self._count(x, 0 if initial_state is None else initial_state.k.shape[2], cu_seqlens)
        tau_q, tau_k, tau_v = (self._tau(*a, count) for a in (("query", x, q), ("key", x, k), ("value", x, v)))
        q, k, v = split(q, self.heads), split(k, self.kv_heads), split(v, self.kv_heads)
        k, v = (y if tau is None else (y * tau[..., None]).to(y.dtype) for y, tau in ((k, tau_k), (v, tau_v)))
        if initial_state is not None:
            k, v = torch.cat([initial_state.k, k], 2), torch.cat([initial_state.v, v], 2)
        y = saccade.softmax_attention(
            q,
            k,
            v,
            causal=self.causal,
            window=None if self.window is None else (self.window, -1),
            temperature=tau_q,
            cu_seqlens_q=cu_seqlens,
            cu_seqlens_k=cu_seqlens,
        )
        out = self.out(merge(y))
        return (out, SelectiveState(k, v)) if return_state else out

    @torch.no_grad()
    def step(self, x: Tensor, state: SelectiveState | None = None) -> tuple[Tensor, SelectiveState]:
        ordered(self)
        out, state = self(x[:, None], initial_state=state, return_state=True)
        return out[:, 0], state
