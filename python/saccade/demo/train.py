"""One training run in a process of its own, so that its peak memory is its own: `python -m saccade.demo.train NAME …`.

Driven over stdin and stdout, one JSON object a line: {"steps": n} -> n lines {"loss", "seconds"}; {"finish": length} ->
one line with the held-out loss, a sampled text, and the peak resident memory above that before the first step;
{"length": n} -> one line with the seconds of a forward and backward over one sequence of n bytes.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time

import torch
from torch.nn import functional as F

from .attentions import ATTENTIONS
from .model import Config, Decoder, sample

BATCH, RATE, WARMUP = 2, 2e-3, 10
PROMPT = b"The assignment statement "


def corpus() -> tuple[torch.Tensor, torch.Tensor]:
    """The language reference that every CPython carries, as bytes: 95 % to train on, 5 % held out."""
    from pydoc_data.topics import topics

    data = torch.frombuffer(bytearray("\n\n".join(topics[name] for name in sorted(topics)), "utf-8"), dtype=torch.uint8)
    cut = len(data) * 19 // 20
    return data[:cut].long(), data[cut:].long()


def resident(field: str) -> int:
    """Bytes of this process's resident memory now (VmRSS) or at its peak (VmHWM); 0 where the system does not say."""
    try:
        with open("/proc/self/status") as f:
            return next(int(line.split()[1]) * 1024 for line in f if line.startswith(field))
    except (OSError, StopIteration):
        return 0


class Run:
    def __init__(self, name: str, config: Config, seed: int, total: int):
        torch.manual_seed(seed)
        self.config, self.seed, self.total = config, seed, total
        self.model = Decoder(config, ATTENTIONS[name].attend)
        self.text, self.held_out = corpus()
        self.order = torch.Generator().manual_seed(seed)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.1)
        schedule = lambda t: min((t + 1) / WARMUP, 0.1 + 0.45 * (1 + math.cos(math.pi * min(t / total, 1))))  # noqa: E731
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, schedule)
        self.before = resident("VmRSS")

    def loss(self, text: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        batch = torch.stack([text[s : s + self.config.context + 1] for s in starts.tolist()])
        logits, _ = self.model(batch[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())

    def step(self) -> tuple[float, float]:
        starts = torch.randint(len(self.text) - self.config.context, (BATCH,), generator=self.order)
        begin = time.perf_counter()
        loss = self.loss(self.text, starts)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        return loss.item(), time.perf_counter() - begin

    def seconds(self, length: int) -> float:
        tokens = self.text[None, :length]
        begin = time.perf_counter()
        logits, _ = self.model(tokens)
        F.cross_entropy(logits[0, :-1], tokens[0, 1:]).backward()
        return time.perf_counter() - begin

    @torch.no_grad()
    def finish(self, length: int) -> dict:
        peak = resident("VmHWM")
        starts = torch.arange(0, len(self.held_out) - self.config.context - 1, self.config.context)
        held_out = [self.loss(self.held_out, chunk).item() * len(chunk) for chunk in starts.split(BATCH)]
        return {
            "held_out": sum(held_out) / len(starts),
            "text": sample(self.model, PROMPT, length, self.seed).decode("utf-8", "replace"),
            "prompt": PROMPT.decode(),
            "memory": max(peak - self.before, 0),
            "parameters": sum(p.numel() for p in self.model.parameters()),
        }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=ATTENTIONS)
    parser.add_argument("--config", type=json.loads, default={})
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--total", type=int, required=True)
    a = parser.parse_args()
    if a.threads:
        torch.set_num_threads(a.threads)
    run = Run(a.name, Config(**a.config), a.seed, a.total)

    def say(**fields: object) -> None:
        print(json.dumps(fields), flush=True)

    say(ready=True)
    for line in sys.stdin:
        order = json.loads(line)
        for _ in range(order.get("steps", 0)):
            loss, seconds = run.step()
            say(loss=loss, seconds=seconds)
        if "length" in order:
            say(seconds=run.seconds(order["length"]))
        if "finish" in order:
            say(**run.finish(order["finish"]))


if __name__ == "__main__":
    main()
