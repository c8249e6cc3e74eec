"""The demo's transformer: byte-level, pre-norm, rotary positions, grouped queries. The attention is a parameter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
Cache = list[tuple[torch.Tensor, torch.Tensor]]


CONTEXT = 1024  # bytes


@dataclass(frozen=True)
class Config:
    layers: int = 4
    width: int = 256
    heads: int = 4
    kv_heads: int = 2
    mlp: int = 512
    context: int = CONTEXT
    vocabulary: int = 256


def rope(x: torch.Tensor, start: int) -> torch.Tensor:
    """Rotary positions start, start + 1, … on x (B, H, N, D), halves paired."""
    half = x.shape[-1] // 2
    inverse = 10000.0 ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angle = torch.arange(start, start + x.shape[-2], device=x.device)[:, None] * inverse
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class Block(nn.Module):
    def __init__(self, c: Config, attend: Attend):
        super().__init__()
        self.c, self.attend, self.head_dim = c, attend, c.width // c.heads
        self.norm1, self.norm2 = nn.RMSNorm(c.width), nn.RMSNorm(c.width)
        self.qkv = nn.Linear(c.width, (c.heads + 2 * c.kv_heads) * self.head_dim, bias=False)
        self.out = nn.Linear(c.width, c.width, bias=False)
        self.up, self.down = nn.Linear(c.width, c.mlp, bias=False), nn.Linear(c.mlp, c.width, bias=False)

    def forward(self, x: torch.Tensor, past: tuple[torch.Tensor, torch.Tensor] | None):
        b, n, _ = x.shape
        c, d = self.c, self.head_dim
        heads = self.qkv(self.norm1(x)).view(b, n, -1, d).transpose(1, 2)
        q, k, v = heads.split([c.heads, c.kv_heads, c.kv_heads], 1)
        start = 0 if past is None else past[0].shape[2]
        q, k = rope(q, start), rope(k, start)
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        x = x + self.out(self.attend(q, k, v).transpose(1, 2).reshape(b, n, -1))
        return x + self.down(F.gelu(self.up(self.norm2(x)))), (k, v)


class Decoder(nn.Module):
    """tokens (B, N) -> logits (B, N, 256) and the keys and values of every layer."""

    def __init__(self, c: Config, attend: Attend):
        super().__init__()
        self.embed = nn.Embedding(c.vocabulary, c.width)
        self.blocks = nn.ModuleList(Block(c, attend) for _ in range(c.layers))
        self.norm = nn.RMSNorm(c.width)
        # fan-in scale, so that scores have unit variance and the attention matters from the first step
        for name, p in self.named_parameters():
            if p.dim() == 2:
                std = 0.02 if name.startswith("embed") else p.shape[1] ** -0.5
                nn.init.normal_(
                    p, std=std * (2 * c.layers) ** -0.5 if name.endswith(("out.weight", "down.weight")) else std
                )

    def forward(self, tokens: torch.Tensor, past: Cache | None = None) -> tuple[torch.Tensor, Cache]:
        x, cache = self.embed(tokens), []
        for i, block in enumerate(self.blocks):
            x, kv = block(x, past[i] if past else None)
            cache.append(kv)
        return self.norm(x) @ self.embed.weight.T, cache


@torch.no_grad()
def sample(model: Decoder, prompt: bytes, length: int, seed: int, temperature: float = 0.7) -> bytes:
    """`length` bytes after `prompt`, one key-value-cached step each."""
    generator = torch.Generator().manual_seed(seed)
    logits, past = model(torch.tensor([list(prompt)]))
    text = bytearray()
    for _ in range(length):
        token = torch.multinomial((logits[:, -1] / temperature).softmax(-1), 1, generator=generator)
        text.append(int(token))
        logits, past = model(token, past)
    return bytes(text)
