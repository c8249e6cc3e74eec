"""TransNormer's token mixer: lightning attention of SiLU projections, a norm instead of the normaliser, and a gate.

Source: "TransNormerLLM: A Faster and Better Large Language Model with Improved TransNormer" (arXiv:2307.14995).
Established: the mixer, from the released model ("srms" norm, gate "linear") and from the kernels' example module
("layer" norm, gate "sigmoid", SiLU on v too); their decays differ from the paper's, hence the presets by name. Ours:
states, packed sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import saccade
from saccade.nn._sequence import checked, head_dim, merge, place_of, sequence_of, split, statistic

DECAYS = {
    "alibi_layer": saccade.linear.alibi_layer,
    "linear_head": saccade.linear.linear_head,
    "retnet": lambda heads, layer, layers: saccade.linear.retnet(heads),
    "none": lambda heads, layer, layers: [0.0] * heads,
}


class TransNormerState(NamedTuple):
    count: Tensor  # (B,) int64, tokens so far
    kv: Tensor  # (B, H, D or 2 D, D), float32


class LRPE(nn.Module):
    """Linearised relative positions: x_t -> [x_t cos(theta t), x_t sin(theta t)], (B, H, N, D) -> (B, H, N, 2 D).

    Then q_t . k_s = sum_c q_c k_c cos(theta_c (t - s)). theta (H, D) is learned; start 10000^(-2 i / (H D)).
    """

    def __init__(self, heads: int, dim: int):
        super().__init__()
        i = torch.arange(heads * dim, dtype=torch.float32).view(heads, dim)
        self.theta = nn.Parameter(10000.0 ** (-2 * i / (heads * dim)))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """t: places from 0: (B, N) with x (B, H, N, D), (T,) with packed or one-step x (T, H, D)."""
        acc = statistic(x.dtype)
        t = (t[:, None, :] if x.dim() == 4 else t[:, None]).to(acc)[..., None]
        angle = t * (self.theta[:, None] if x.dim() == 4 else self.theta).to(acc)
        return torch.cat([x * angle.cos(), x * angle.sin()], -1).to(x.dtype)


class TransNormer(nn.Module):
    """out = W_o (norm(lightning(SiLU(W_q x), SiLU(W_k x), W_v x)) * gate), causal.

    (B, N, C) -> (B, N, C), or packed (T, C).

    Args:
        width C; heads H; layer of layers, from 0, which the decays depend on.
        decay: "alibi_layer" (released code), "linear_head" (other code), "retnet", "none", or H log decays.
        lrpe: relative positions on q and k; released models: in the first layer only. Doubles the state.
        norm: over all C channels: "srms", x / sqrt(mean x^2 + 1e-6), without weights; "layer"; or "none".
        gate: "linear", times W_u x; "sigmoid", times sigmoid(W_2 W_1 x), of rank C / H; or "none".
        silu_value: SiLU on v too. scale of q . k: 1. bias False, of the projections.
    """

    def __init__(self, width: int, heads: int, *, layer: int = 0, layers: int = 1, lrpe: bool = False,
                 decay: str | Sequence[float] = "alibi_layer", norm: str = "srms", gate: str = "linear",
                 silu_value: bool = False, scale: float = 1.0, bias: bool = False):  # fmt: skip
        super().__init__()
        checked("TransNormer", "norm", norm, ("srms", "layer", "none"))
        checked("TransNormer", "gate", gate, ("linear", "sigmoid", "none"))
        if isinstance(decay, str):
            checked("TransNormer", "decay", decay, tuple(DECAYS))
            decay = DECAYS[decay](heads, layer, layers)
        self.heads, self.scale, self.silu_value, dim = heads, scale, silu_value, head_dim("TransNormer", width, heads)
        self.log_decay = torch.tensor(decay, dtype=torch.float64)  # no buffer: module.bfloat16() would round it
        self.q, self.k, self.v, self.out = (nn.Linear(width, width, bias=bias) for _ in range(4))
        self.lrpe = LRPE(heads, dim) if lrpe else None
        self.norm = {
            "srms": nn.RMSNorm(width, eps=1e-6, elementwise_affine=False),
            "layer": nn.LayerNorm(width),
            "none": nn.Identity(),
        }[norm]
        self.gate = {
            "linear": lambda: nn.Linear(width, width, bias=bias),
            "sigmoid": lambda: nn.Sequential(
                nn.Linear(width, dim, bias=bias), nn.Linear(dim, width, bias=bias), nn.Sigmoid()
            ),
            "none": lambda: None,
        }[gate]()

    def _qkv(self, x: Tensor, t: Tensor) -> list[Tensor]:
        q, k, v = F.silu(self.q(x)), F.silu(self.k(x)), self.v(x)
        q, k, v = (split(y, self.heads) for y in (q, k, F.silu(v) if self.silu_value else v))
        return [q, k, v] if self.lrpe is None else [self.lrpe(q, t), self.lrpe(k, t), v]

    def _decay(self, x: Tensor) -> Tensor:
        if self.log_decay.device != x.device:
            self.log_decay = self.log_decay.to(x.device)
        return self.log_decay

    def _finish(self, x: Tensor, y: Tensor) -> Tensor:
        y = self.norm(merge(y))
        return self.out(y if self.gate is None else y * self.gate(x))

    def forward(self, x: Tensor, *, cu_seqlens: Tensor | None = None, initial_state: TransNormerState | None = None,
                return_state: bool = False):  # fmt: skip
        batch = len(x) if cu_seqlens is None else len(cu_seqlens) - 1
        count, kv = initial_state or (torch.zeros(batch, dtype=torch.int64, device=x.device), None)
        if cu_seqlens is None:
            t, count = count[:, None] + torch.arange(x.shape[1], device=x.device), count + x.shape[1]
        else:
            t = count[sequence_of(cu_seqlens, len(x))] + place_of(cu_seqlens, len(x))
            count = count + cu_seqlens.diff()
        y, kv = saccade.linear_attention(
            *self._qkv(x, t),
            log_decay=self._decay(x),
            scale=self.scale,
            initial_state=kv,
            return_state=True,
            cu_seqlens=cu_seqlens,
        )
        out = self._finish(x, y)
        return (out, TransNormerState(count, kv)) if return_state else out

    @torch.no_grad()
    def step(self, x: Tensor, state: TransNormerState | None = None) -> tuple[Tensor, TransNormerState]:
        count = torch.zeros(len(x), dtype=torch.int64, device=x.device) if state is None else state.count
        q, k, v = self._qkv(x, count)
        kv = v.new_zeros(len(x), self.heads, q.shape[-1], v.shape[-1], dtype=statistic(v.dtype))
        kv = kv if state is None else state.kv
        y = saccade.linear_attention_step(q, k, v, kv, log_decay=self._decay(x), scale=self.scale)
        return self._finish(x, y), TransNormerState(count + 1, kv)
