"""ReLU attention with a mean in the place of softmax, and its layer of frozen random heads.

Source: "What can a Single Attention Layer Learn? A Study Through the Random Features Lens" (arXiv:2307.11353).
Established: the function of one query. Ours: every token a query, causal, packed, powers of the count (the row weight
n^-power; compare "Replacing softmax with ReLU in Vision Transformers", arXiv:2309.08586), grouped heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import saccade
from saccade.nn._sequence import checked, ordered, place_of, sequence_of, split, statistic


def relu_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    scale: float | None = None,
    weight: str = "visible",
    power: float = 1.0,
    cu_seqlens: Tensor | None = None,
) -> Tensor:
    """out_i = n_i^-power sum_j relu(scale q_i . k_j) v_j.

    Args:
        q (B, H, Nq, D), k (B, Hk, Nk, D), v (B, Hk, Nk, Dv), or packed (T, H, D) with cu_seqlens; causal aligns
        bottom-right; scale D ** -0.5.
        weight: what n counts: the row's "visible" keys, or all "keys" of the sequence (the same without `causal`).
        power: 1.0, the mean; 0.0, the sum.
    """
    checked("relu_attention", "weight", weight, ("visible", "keys"))
    visible, acc = causal and weight == "visible", statistic(q.dtype)
    if cu_seqlens is not None:
        n = place_of(cu_seqlens, len(q)) + 1 if visible else cu_seqlens.diff()[sequence_of(cu_seqlens, len(q))]
        n = n[:, None]
    else:
        nk = k.shape[2]
        n = torch.arange(nk - q.shape[2], nk, device=q.device) + 1 if visible else torch.tensor([nk], device=q.device)
    gate = n.clamp(min=1).to(acc) ** -power
    return saccade.attention(
        q, k, v, score="relu", causal=causal, scale=scale, head_gate=gate.expand(q.shape[:-1]),
        cu_seqlens_q=cu_seqlens, cu_seqlens_k=cu_seqlens,
    )  # fmt: skip


class RandomFeatureAttention(nn.Module):
    """f(x_i) = sum_h mean_j relu(x_i W_h x_j^T) V_h x_j: random W_h that are not trained, trained V_h.

    (B, N, C) -> (B, N, out), or packed (T, C). State: the tokens so far, (B, t, C).

    Args: width C; heads H; out C; causal False; mean 0.0: W_h = mean I + G_h / C, with G_h of independent standard
    normal entries (non-zero: the biased version, of better sample complexity); weight, power: as in `relu_attention`.
    """

    def __init__(self, width: int, heads: int, out: int | None = None, *, causal: bool = False, mean: float = 0.0,
                 weight: str = "visible", power: float = 1.0):  # fmt: skip
        super().__init__()
        self.heads, self.causal, self.options = heads, causal, {"weight": weight, "power": power, "scale": 1.0}
        random = torch.randn(width, heads, width) / width + mean * torch.eye(width)[:, None]
        self.register_buffer("random", random.flatten(1))  # (C, H C): x -> x W_h of every head
        self.value = nn.Linear(heads * width, out or width, bias=False)

    def forward(self, x: Tensor, *, cu_seqlens: Tensor | None = None, initial_state: Tensor | None = None,
                return_state: bool = False):  # fmt: skip
        if cu_seqlens is not None and (return_state or initial_state is not None):
            raise ValueError(
                "RandomFeatureAttention: cu_seqlens: got it with a state, wanted one of them; pad the batch"
            )
        past = x if initial_state is None else torch.cat([initial_state, x], 1)
        kv = split(past, 1)  # every head reads the tokens themselves; V_h comes after the sum
        y = relu_attention(
            split(x @ self.random, self.heads), kv, kv, causal=self.causal, cu_seqlens=cu_seqlens, **self.options
        )
        out = self.value((y.transpose(1, 2) if y.dim() == 4 else y).flatten(-2))
        return (out, past) if return_state else out

    @torch.no_grad()
    def step(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        ordered(self)
        out, state = self(x[:, None], initial_state=state, return_state=True)
        return out[:, 0], state
