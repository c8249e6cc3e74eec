"""Multi-query associative recall: what a mixer remembers against the numbers it holds.

A sequence names P key-value pairs, then asks for every key once: `k1 v1 k2 v2 … x x k2 x x x k1 x …`, x random tokens.
A model of two layers, a gated convolution of three tokens and the mixer, must say the value at each asked key. Softmax
and sigmoid attention hold every token and solve it. What a linear mixer holds does not grow with the length, so that it
forgets: the less, the larger its state. That is judged. Whether Based or lightning attention does better with as large
a state is shown and not judged: at this size it depends on the training (bench/NOTES.md).

    python -m saccade.demo.mqar            # minutes on two cores: table, mqar-example/recall.png, result.json
    python -m saccade.demo.mqar --quick    # seconds: that everything runs; nothing is learnt

Sources: task and stack, "Zoology" (arXiv:2312.04927), here with a small vocabulary and short sequences; Based
(2402.18668); lightning attention (2307.14995, 2401.04658); sigmoid attention (2409.04431).
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import saccade
from saccade.nn import BaseConv

Task = tuple[int, int]  # tokens, pairs
IGNORED = -100  # cross_entropy's
# Accuracies: softmax's at least, sigmoid's distance from it, a mixer's rise over its sizes, and what counts as level.
SOLVED, CLOSE, GROWTH, NOISE = 0.95, 0.05, 0.1, 0.05
HEADS = 2


def generate(count: int, length: int, pairs: int, vocab: int, generator: torch.Generator, *, power: float = 0.01,
             passes: int = 1, random_filler: bool = True) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Inputs and labels (count, length), int64.

    Keys are `pairs` distinct tokens of 1…vocab/2-1, values of vocab/2…vocab-1. The context, k1 v1 k2 v2 …, comes
    `passes` times. The rest is slots of two tokens; slot i = 1, 2, … has the weight power * i ** (power - 1), `pairs`
    slots are drawn without replacement, and each begins with one key, labelled with its value. Every other label is
    IGNORED, every other token 0 or, with `random_filler`, uniform over the whole vocabulary.
    """
    context = 2 * pairs * passes
    slots = (length - context) // 2
    if length % 2 or slots < pairs or not pairs < vocab // 2:
        raise ValueError(
            f"generate: got length {length}, pairs {pairs}, vocab {vocab}, wanted an even length of at least "
            f"{context + 2 * pairs} and more than {2 * pairs + 1} tokens"
        )

    def distinct(log_weights: Tensor) -> Tensor:  # drawn one after the other: the order of log weight + Gumbel noise
        noise = -torch.empty(count, len(log_weights)).exponential_(generator=generator).log()
        return (log_weights + noise).topk(pairs, -1).indices

    half = vocab // 2
    keys, values = 1 + distinct(torch.zeros(half - 1)), half + distinct(torch.zeros(vocab - half))
    place = context + 2 * distinct((power - 1) * torch.arange(1, slots + 1).log())
    inputs, labels = torch.zeros(count, length, dtype=torch.int64), torch.full((count, length), IGNORED)
    inputs[:, :context] = torch.stack([keys, values], -1).flatten(1).repeat(1, passes)
    inputs.scatter_(1, place, keys)
    labels.scatter_(1, place, values)
    if random_filler:
        filler = torch.randint(vocab, inputs.shape, generator=generator)
        inputs = torch.where(inputs == 0, filler, inputs)
    return inputs, labels


class Recall(nn.Module):
    """attend(q, k, v) between projections, over (B, N, C); q and k have `dim` channels a head.

    Then a norm: sigmoid (its source's "hybrid norm") and lightning attention want one, softmax does not mind it.
    """

    def __init__(self, width: int, dim: int, attend: Callable[[Tensor, Tensor, Tensor], Tensor]):
        super().__init__()
        self.attend = attend
        self.q, self.k = (nn.Linear(width, HEADS * dim, bias=False) for _ in range(2))
        self.v, self.out = (nn.Linear(width, width, bias=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = self.attend(q, k, v).transpose(1, 2).flatten(2)
        return self.out(F.rms_norm(y, y.shape[-1:]))


class Model(nn.Module):
    """Tokens (B, N) -> logits of the places where `asked` (B, N) holds: embedding, BaseConv, mixer, embedding again."""

    def __init__(self, vocab: int, width: int, mixer: nn.Module):
        super().__init__()
        self.embedding = nn.Embedding(vocab, width)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.layers = nn.ModuleList([BaseConv(width, 3), mixer])
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))

    def forward(self, tokens: Tensor, asked: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for norm, layer in zip(self.norms[:2], self.layers, strict=True):
            x = x + layer(norm(x))
        return self.norms[2](x[asked]) @ self.embedding.weight.T


class Mixer(NamedTuple):
    name: str
    dim: int  # channels of q and k a head
    attend: Callable[[Tensor, Tensor, Tensor], Tensor]
    held: Callable[[int], int]  # length -> numbers a sequence's state has after its last token


def lightning(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return saccade.lightning_attention(F.silu(q), F.silu(k), v)


def based(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return saccade.linear_attention(q, k, v, feature="taylor2", scale=q.shape[-1] ** -0.5, normalize=True)


def mixers(width: int, longest: int) -> list[Mixer]:
    bias = -math.log(longest)  # one constant for all lengths
    return [
        Mixer("softmax", width // HEADS, partial(saccade.softmax_attention, causal=True), lambda n: 2 * n * width),
        Mixer("sigmoid", width // HEADS, partial(saccade.sigmoid_attention, causal=True, score_bias=bias),
              lambda n: 2 * n * width),
        *(Mixer("lightning", d, lightning, lambda n, d=d: d * width) for d in (16, 32, 64)),
        *(Mixer("Based", f, based, lambda n, f=f: (1 + f + f * (f + 1) // 2) * (width + HEADS)) for f in (4, 6, 8, 16)),
    ]  # fmt: skip


def train(mixer: Mixer, tasks: list[Task], options: argparse.Namespace) -> dict[str, Any]:
    """One step of each task in turn. Accuracy on every task: of fresh sequences, the same for all mixers."""
    torch.manual_seed(options.seed)
    model, draw = (
        Model(options.vocab, options.width, Recall(options.width, mixer.dim, mixer.attend)),
        torch.Generator().manual_seed(options.seed),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, weight_decay=0.1)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min(1, 10 * (i + 1) / options.steps) * (1 + math.cos(math.pi * i / options.steps)) / 2
    )
    begin, cpu = time.monotonic(), time.process_time()
    for step in range(options.steps):
        inputs, labels = generate(options.batch, *tasks[step % len(tasks)], options.vocab, draw)
        asked = labels != IGNORED
        loss = F.cross_entropy(model(inputs, asked), labels[asked])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    seconds, cpu = time.monotonic() - begin, time.process_time() - cpu
    unseen = torch.Generator().manual_seed(options.seed + 10**6)
    return {
        "name": mixer.name,
        "dim": mixer.dim,
        "held": [mixer.held(length) for length, _ in tasks],
        "accuracy": [accuracy(model, *generate(options.test, *task, options.vocab, unseen)) for task in tasks],
        "loss": loss.item(),
        "seconds": seconds,
        "cpu_seconds": cpu,
    }


@torch.no_grad()
def accuracy(model: Model, inputs: Tensor, labels: Tensor) -> float:
    asked = labels != IGNORED
    return (model(inputs, asked).argmax(-1) == labels[asked]).double().mean().item()


def judge(runs: list[dict[str, Any]]) -> list[str]:
    """Which parts of the known ordering did not come out, on the last task."""
    points: dict[str, list[tuple[int, float]]] = {}
    for r in runs:
        points.setdefault(r["name"], []).append((r["held"][-1], r["accuracy"][-1]))
    (_, softmax), (_, sigmoid) = *points["softmax"], *points["sigmoid"]
    faults = []
    if softmax < SOLVED:
        faults.append(f"softmax solves it: got {softmax:.3f}, wanted {SOLVED}")
    if sigmoid < softmax - CLOSE:
        faults.append(f"sigmoid comes close to softmax: got {sigmoid:.3f}, wanted {softmax - CLOSE:.3f}")
    for name in ("lightning", "Based"):
        grows = sorted(points[name])
        if any(b[1] < a[1] - NOISE for a, b in pairwise(grows)) or grows[-1][1] < grows[0][1] + GROWTH:
            faults.append(f"{name} gets better with its state: got {[round(y, 3) for _, y in grows]}")
        if grows[-1][1] > softmax + NOISE:
            faults.append(f"{name} stays below softmax: got {grows[-1][1]:.3f}, wanted at most {softmax:.3f}")
    return faults


def plot(runs: list[dict[str, Any]], tasks: list[Task], path: pathlib.Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        1, len(tasks), figsize=(5 * len(tasks), 4), sharey=True, squeeze=False, layout="constrained"
    )
    for i, (axis, (length, pairs)) in enumerate(zip(axes[0], tasks, strict=True)):
        for name, marker in zip(dict.fromkeys(r["name"] for r in runs), "sD^o", strict=True):
            own = [r for r in runs if r["name"] == name]
            axis.semilogx(
                [r["held"][i] for r in own], [r["accuracy"][i] for r in own], marker + "-", label=name, alpha=0.8
            )
        axis.set(
            title=f"{pairs} pairs in {length} tokens", xlabel="numbers held after the last token", ylim=(-0.03, 1.03)
        )
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("accuracy of recall")
    axes[0, -1].legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Multi-query associative recall by the size of the state.")
    parser.add_argument("--steps", type=int, help="training steps a model (default 1000)")
    parser.add_argument("--lengths", type=int, nargs="+", help="tokens of each task (default 64 128)")
    parser.add_argument("--pairs", type=int, nargs="+", help="pairs of each task (default 8 24); the last is judged")
    parser.add_argument("--vocab", type=int, default=512)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: torch's)")
    parser.add_argument("--out", default="mqar-example", help="folder for recall.png and result.json")
    parser.add_argument("--quick", action="store_true", help="a few steps of a tiny task; the ordering is not judged")
    o = parser.parse_args(arguments)
    o.width, o.test = (16, 32) if o.quick else (64, 1000)
    o.steps = o.steps or (4 if o.quick else 1000)
    o.lengths, o.pairs = o.lengths or ([16] if o.quick else [64, 128]), o.pairs or ([2] if o.quick else [8, 24])
    if len(o.lengths) != len(o.pairs):
        parser.error(f"--pairs: got {len(o.pairs)} numbers, wanted one for each of the {len(o.lengths)} --lengths")
    if o.threads:
        torch.set_num_threads(o.threads)
    tasks, out = list(zip(o.lengths, o.pairs, strict=True)), pathlib.Path(o.out)
    out.mkdir(parents=True, exist_ok=True)

    columns = [f"{pairs} in {length}" for length, pairs in tasks]
    print(
        f"accuracy of recall, {o.steps} steps each, seed {o.seed}; pairs in tokens, numbers held at the end of the last"
    )
    print(f"{'mixer':10}{'q, k':>5}{'held':>7}" + "".join(f"{c:>11}" for c in columns) + f"{'seconds':>9}")
    runs = []
    for mixer in mixers(o.width, max(o.lengths)):
        runs.append(r := train(mixer, tasks, o))
        cells = "".join(f"{a:11.3f}" for a in r["accuracy"])
        print(f"{r['name']:10}{r['dim']:5}{r['held'][-1]:7}{cells}{r['seconds']:9.1f}", flush=True)
    faults = [] if o.quick else judge(runs)
    (out / "result.json").write_text(json.dumps({"options": vars(o), "runs": runs, "faults": faults}, indent=1))
    try:
        plot(runs, tasks, out / "recall.png")
        print(f"plot: {out / 'recall.png'}")
    except ImportError:
        print("no plot: no matplotlib")
    if o.quick:
        print("the ordering is not judged: --quick learns nothing")
    else:
        print(
            "\n".join(f"FAILED {f}" for f in faults)
            or "the known ordering came out (Based against lightning is not judged)"
        )
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
