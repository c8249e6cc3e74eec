"""saccade-demo/report.html: one file, plots embedded, and the plots as PNG beside it."""

from __future__ import annotations

import html
import pathlib
from typing import Any

import saccade
from saccade.cli._plot import html_table, image_tag, page, png, pyplot

from .compare import speeds

COLORS = ["#444444", "#d1495b", "#00798c", "#edae49", "#30638e", "#66a182"]


def curves(result: dict[str, Any]) -> Any:
    """Loss of every run (the first wide and pale below the others), and the gaps of those that must coincide."""
    plt = pyplot()
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(8, 6), height_ratios=[2, 1], sharex=True, layout="constrained")
    for i, (r, color) in enumerate(zip(result["runs"].values(), COLORS, strict=False)):
        style = {"lw": 5, "alpha": 0.35} if i == 0 else {"lw": 1.3}
        steps = range(1, len(r["loss"]) + 1)
        top.plot(steps, r["loss"], color=color, label=r["title"], **style)
        if "gap" in r:
            bottom.semilogy(steps, [max(g, 1e-8) for g in r["gap"]], color=color, lw=1.2, label=r["title"])
    top.set(title="Training loss, same seed, same batches", ylabel="loss, nats per byte")
    top.legend()
    bottom.set(title="Distance from torch SDPA's curve", ylabel="|difference|", xlabel="step")
    return figure


def step_times(result: dict[str, Any]) -> Any:
    plt = pyplot()
    figure, ax = plt.subplots(figsize=(8, 3.2), layout="constrained")
    for r, color in zip(result["runs"].values(), COLORS, strict=False):
        ax.plot(range(1, len(r["seconds"]) + 1), [1e3 * s for s in r["seconds"]], ".", ms=3, color=color, alpha=0.6)
        ax.axhline(1e3 * r["step"], color=color, lw=1.5, label=f"{r['title']}: median {1e3 * r['step']:.0f} ms")
    top = max(sorted(r["seconds"])[int(0.97 * (len(r["seconds"]) - 1))] for r in result["runs"].values())
    ax.set(title="Time of a training step", xlabel="step", ylabel="ms", ylim=(0, 1.25e3 * top))
    ax.legend()
    return figure


def memory(result: dict[str, Any]) -> Any:
    plt = pyplot()
    runs = list(result["runs"].values())
    figure, ax = plt.subplots(figsize=(8, 0.8 + 0.5 * len(runs)), layout="constrained")
    bars = ax.barh(
        [r["title"] for r in runs], [r["memory"] / 2**20 for r in runs], color=COLORS[: len(runs)], height=0.6
    )
    ax.bar_label(bars, fmt="%.0f MiB", padding=4)
    ax.invert_yaxis()
    ax.margins(x=0.15)
    ax.grid(axis="y", visible=False)
    ax.set(title="Peak resident memory of the training above its start", xlabel="MiB")
    return figure


def throughput(result: dict[str, Any]) -> Any:
    """Tokens per second by sequence length: flat where the cost is linear, falling as 1/N where it is quadratic."""
    plt = pyplot()
    figure, ax = plt.subplots(figsize=(8, 3.6), layout="constrained")
    for r, color in zip(result["runs"].values(), COLORS, strict=False):
        points = {int(n): x for n, x in r["tokens_per_second"].items()}
        ax.loglog(points.keys(), points.values(), "o-", color=color, label=r["title"])
    ticks = [int(n) for n in next(iter(result["runs"].values()))["tokens_per_second"]]
    ax.set_xticks(ticks, [str(n) for n in ticks])
    ax.minorticks_off()
    ax.set(title="Whole model, forward and backward, one sequence", xlabel="sequence length", ylabel="tokens/s")
    ax.legend()
    return figure


def write(result: dict[str, Any], headers: list[str], rows: list[list[object]], out: pathlib.Path) -> pathlib.Path:
    """Writes loss.png, steps.png, memory.png, speed.png and report.html under `out` and returns the last one's path."""
    parts = [html_table(headers, rows)]
    draws = {"loss": curves, "steps": step_times, "memory": memory}
    if next(iter(result["runs"].values()))["tokens_per_second"]:
        parts.append(html_table(*speeds(result)))
        draws["speed"] = throughput
    for name, draw in draws.items():
        data = png(draw(result))
        (out / f"{name}.png").write_bytes(data)
        parts.append(image_tag(data, draw.__name__))
    for r in result["runs"].values():
        text = f"<b>{html.escape(r['prompt'])}</b>{html.escape(r['text'])}"
        parts.append(f"<h2>{html.escape(r['title'])} continues</h2><pre>{text}</pre>")
    parts.append(f"<p>{result['steps']} steps each, {result['wall']:.0f} s in all; saccade {saccade.__version__}, ")
    parts.append(f"instruction set {html.escape(str(saccade.info().get('cpu_isa', '')))}.</p>")
    path = out / "report.html"
    path.write_text(page("saccade demo: one transformer, every attention", *parts), encoding="utf-8")
    return path
