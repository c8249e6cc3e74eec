"""Causal depthwise convolution along time, with a state: torch's convolution of rows that begin with the state.

    y_t = sum_{r < Kw} w_r x_{t - Kw + 1 + r} + b        w_{Kw-1} is of the token itself

Source: the short convolutions of H3 (arXiv:2212.14052) and of most gated linear models since. Established: the map.
Ours: weights shared by heads, sequences packed without padding or a loop, and states that are differentiable both ways.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.nn._sequence import sequence_of


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    silu: bool = False,
    initial_state: Tensor | None = None,
    return_state: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """The convolution of every channel with its own kernel.

    Args:
        x: (B, N, C), or packed (T, C) with `cu_seqlens`, int32 (B + 1,): every sequence begins anew.
        weight: (C, Kw), or (C / H, Kw) shared by H heads, channel c = h * C/H + i having row i; Kw >= 1.
        bias: (C,) or (C / H,).
        silu: SiLU of the result.
        initial_state: (B, Kw - 1, C), the inputs before the first, oldest first; None: zeros.
        return_state: also return the last Kw - 1 inputs.

    Returns: y, shape and dtype of x; with `return_state` also the state. All differentiable.
    """
    channels, before = x.shape[-1], weight.shape[-1] - 1
    weight, bias = _per_channel(weight, bias, channels)
    if cu_seqlens is None:
        state = x.new_zeros(x.shape[0], before, channels) if initial_state is None else initial_state
        rows = torch.cat([state.to(x.dtype), x], 1)
        y, last = _valid(rows, weight, bias), rows[:, rows.shape[1] - before :]
    else:  # sequence b, its state first, begins at row cu_b + b * before
        batch, sequence = cu_seqlens.shape[0] - 1, sequence_of(cu_seqlens, x.shape[0])
        first = torch.arange(batch, device=x.device)[:, None] * before + torch.arange(before, device=x.device)
        place = torch.arange(x.shape[0], device=x.device) + (sequence + 1) * before
        rows = x.new_zeros(x.shape[0] + batch * before, channels).index_copy(0, place, x)
        if initial_state is not None:
            start = (first + cu_seqlens[:-1, None]).flatten()
            rows = rows.index_copy(0, start, initial_state.to(x.dtype).flatten(0, 1))
        y, last = _valid(rows[None], weight, bias)[0][place - before], rows[first + cu_seqlens[1:, None]]
    y = F.silu(y) if silu else y
    return (y, last) if return_state else y


@torch.no_grad()
def causal_conv1d_step(
    x: Tensor, state: Tensor | None, weight: Tensor, bias: Tensor | None = None, *, silu: bool = False
) -> tuple[Tensor, Tensor]:
    """One token: x (B, C) and the state (B, Kw - 1, C) or None -> y (B, C) and the next state. See `causal_conv1d`."""
    y, state = causal_conv1d(x[:, None], weight, bias, silu=silu, initial_state=state, return_state=True)
    return y[:, 0], state


def _per_channel(weight: Tensor, bias: Tensor | None, channels: int) -> tuple[Tensor, Tensor | None]:
    own = weight.shape[0]
    if weight.dim() != 2 or not own or channels % own or not weight.shape[1]:
        raise ValueError(
            f"causal_conv1d: weight: got shape {tuple(weight.shape)}, wanted ({channels}, Kw), or ({channels} / H, Kw) "
            "shared by H heads, to match x; pass a row per channel"
        )
    heads = channels // own
    return weight.repeat(heads, 1), None if bias is None else bias.repeat(heads)


def _valid(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if rows.shape[1] < weight.shape[1]:  # no tokens, which conv2d refuses
        return rows[:, :0] * weight[:, 0]
    # (B, C, 1, N) of rows (B, N, C) is channels-last as it lies: on the CPU 4 times as fast as conv1d, which transposes
    image = rows.transpose(1, 2)[:, :, None]
    return F.conv2d(image, weight[:, None, None], bias, groups=rows.shape[2])[:, :, 0].transpose(1, 2)


class ShortConv(nn.Module):
    """`causal_conv1d` with its weights: a mixer over (B, N, C).

    Args: channels C; kernel Kw, tokens, 3; heads H that share weights (C / H, Kw), 1; bias True; silu False.
    """

    def __init__(self, channels: int, kernel: int = 3, *, heads: int = 1, bias: bool = True, silu: bool = False):
        super().__init__()
        if heads < 1 or channels % heads:
            raise ValueError(
                f"ShortConv: heads: got {heads}, wanted a divisor of {channels} channels; every head has as many"
            )
        bound = kernel**-0.5  # nn.Conv1d's
        self.silu, self.before = silu, kernel - 1
        self.weight = nn.Parameter(torch.empty(channels // heads, kernel).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(channels // heads).uniform_(-bound, bound)) if bias else None

    def forward(self, x: Tensor, *, cu_seqlens=None, initial_state=None, return_state=False):
        """x (B, N, C) or packed (T, C) -> y, or (y, state (B, Kw - 1, C))."""
        return causal_conv1d(
            x,
            self.weight,
            self.bias,
            silu=self.silu,
            initial_state=initial_state,
            return_state=return_state,
            cu_seqlens=cu_seqlens,
        )

    def step(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return causal_conv1d_step(x, state, self.weight, self.bias, silu=self.silu)
