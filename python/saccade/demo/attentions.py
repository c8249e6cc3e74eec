"""What the demo trains with, one line each. Tensors are (B, Hq | Hk, N, D); the last query sees the last key."""

from __future__ import annotations

from dataclasses import dataclass

from torch.nn import functional as F

import saccade

from .model import Attend


@dataclass(frozen=True)
class Attention:
    title: str
    attend: Attend
    same_as: str = ""  # its loss curve must coincide with this one's


def torch_sdpa(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1, enable_gqa=True)


ATTENTIONS = {
    "torch": Attention("torch SDPA", torch_sdpa),
    "saccade": Attention("saccade softmax", lambda q, k, v: saccade.softmax_attention(q, k, v, causal=True), "torch"),
}
