"""Based: linear attention with the second-order Taylor expansion of exp as its weight, and gated short convolutions.

Sources: "Simple linear attention language models balance the recall-throughput tradeoff" (Based, arXiv:2402.18668) and
"Zoology" (arXiv:2312.04927). Established: the feature map, the normaliser, both convolution mixers. Ours: the symmetric
features (153 rows of state for 16 channels, not 273, with the same products), the form without an order of tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import saccade
from saccade.nn._sequence import head_dim, merge, ordered, split, statistic
from saccade.nn.conv import ShortConv


class BasedAttention(nn.Module):
    """out_t = sum_s (1 + x + x^2 / 2) v_s / (sum_s (1 + x + x^2 / 2) + epsilon), x = q_t . k_s / sqrt(F); s <= t.

    The weight is at least 1/2. (B, N, C) -> (B, N, C), or packed (T, C). State: (B, H, 1 + F + F (F + 1) / 2, C/H + 1).

    Args: width C; heads H; feature F, channels of q and k a head, 16; causal True; epsilon 1e-12; bias False, of the
    four projections.
    """

    def __init__(self, width: int, heads: int, *, feature: int = 16, causal: bool = True, epsilon: float = 1e-12,
                 bias: bool = False):  # fmt: skip
        super().__init__()
        head_dim("BasedAttention", width, heads)
        self.heads, self.causal = heads, causal
        self.options = {"feature": "taylor2", "scale": feature**-0.5, "normalize": True, "epsilon": epsilon}
        self.q, self.k = (nn.Linear(width, heads * feature, bias=bias) for _ in range(2))
        self.v, self.out = (nn.Linear(width, width, bias=bias) for _ in range(2))

    def forward(self, x: Tensor, *, cu_seqlens: Tensor | None = None, initial_state: Tensor | None = None,
                return_state: bool = False):  # fmt: skip
        y, state = saccade.linear_attention(
            *(split(f(x), self.heads) for f in (self.q, self.k, self.v)),
            **self.options,
            causal=self.causal,
            initial_state=initial_state,
            return_state=True,
            cu_seqlens=cu_seqlens,
        )
        out = self.out(merge(y))
        return (out, state) if return_state else out

    @torch.no_grad()
    def step(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        ordered(self)
        q, k, v = (split(f(x), self.heads) for f in (self.q, self.k, self.v))
        if state is None:
            d = q.shape[-1]
            state = q.new_zeros(len(q), self.heads, 1 + d + d * (d + 1) // 2, v.shape[-1] + 1, dtype=statistic(q.dtype))
        return self.out(merge(saccade.linear_attention_step(q, k, v, state, **self.options))), state


class BaseConv(nn.Module):
    """Zoology's gated convolution: y = conv(u) * (W u + b) + u, with `silu` on both factors. (B, N, C) -> (B, N, C).

    Args: width C; kernel 3 tokens; silu False. State: (B, kernel - 1, C).
    """

    def __init__(self, width: int, kernel: int = 3, *, silu: bool = False):
        super().__init__()
        self.silu = silu
        self.conv, self.gate = ShortConv(width, kernel, silu=silu), nn.Linear(width, width)

    def _gate(self, x: Tensor) -> Tensor:
        return F.silu(self.gate(x)) if self.silu else self.gate(x)

    def forward(self, x: Tensor, *, cu_seqlens: Tensor | None = None, initial_state: Tensor | None = None,
                return_state: bool = False):  # fmt: skip
        y, state = self.conv(x, cu_seqlens=cu_seqlens, initial_state=initial_state, return_state=True)
        y = y * self._gate(x) + x
        return (y, state) if return_state else y

    @torch.no_grad()
    def step(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y, state = self.conv.step(x, state)
        return y * self._gate(x) + x, state


class GatedConv(nn.Module):
    """Based's gated convolution: [u1, u2] = W_in x, y = W_out (SiLU(conv(u1)) * u2). (B, N, C) -> (B, N, C).

    Args: width C; kernel 3 tokens; expand 4: u1 and u2 have expand / 2 * C channels each. State: that of conv.
    """

    def __init__(self, width: int, kernel: int = 3, *, expand: int = 4, bias: bool = True):
        super().__init__()
        inner = expand * width // 2
        self.proj, self.out = nn.Linear(width, 2 * inner, bias=bias), nn.Linear(inner, width, bias=bias)
        self.conv = ShortConv(inner, kernel, silu=True)

    def forward(self, x: Tensor, *, cu_seqlens: Tensor | None = None, initial_state: Tensor | None = None,
                return_state: bool = False):  # fmt: skip
        u1, u2 = self.proj(x).chunk(2, -1)
        y, state = self.conv(u1, cu_seqlens=cu_seqlens, initial_state=initial_state, return_state=True)
        y = self.out(y * u2)
        return (y, state) if return_state else y

    @torch.no_grad()
    def step(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        u1, u2 = self.proj(x).chunk(2, -1)
        y, state = self.conv.step(u1, state)
        return self.out(y * u2), state
