"""What the demo trains with, one line each. Tensors are (B, Hq | Hk, N, D); the last query sees the last key."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch.nn import functional as F

import saccade

from .model import CONTEXT, Attend


@dataclass(frozen=True)
class Attention:
    title: str
    attend: Attend
    same_as: str = ""  # its loss curve must coincide with this one's


def torch_sdpa(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1, enable_gqa=True)


def sigmoid(q, k, v):
    # The constant of training decodes, too: -ln of the context the demo trains on (arXiv:2409.04431).
    return saccade.sigmoid_attention(q, k, v, causal=True, score_bias=-math.log(CONTEXT))


def lightning(q, k, v):
    """As TransNormerLLM has it: SiLU on queries and keys, a norm in place of a denominator."""
    cached = k.shape[2] - q.shape[2]
    q = F.pad(F.silu(q), (0, 0, cached, 0))  # with a cache the scan runs over it again, for its last outputs
    out = saccade.lightning_attention(q, F.silu(k), v)[:, :, cached:]
    return F.rms_norm(out, out.shape[-1:])


ATTENTIONS = {
    "torch": Attention("torch SDPA", torch_sdpa),
    "saccade": Attention("saccade softmax", lambda q, k, v: saccade.softmax_attention(q, k, v, causal=True), "torch"),
    "sigmoid": Attention("saccade sigmoid", sigmoid),
    "lightning": Attention("saccade lightning", lightning),
}
