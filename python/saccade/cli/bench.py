"""`python -m saccade bench`."""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import Any

from ._console import Progress, table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bars", action="store_true", help="the project's bars only: wanted, measured, pass or fail")
    parser.add_argument(
        "--only", nargs="+", metavar="GROUP", help="with --bars: some of forward training tiles decode memory demo"
    )
    parser.add_argument("--quick", action="store_true", help="fewer cases, less time for each")
    parser.add_argument(
        "--threads", type=int, default=2, help="threads of saccade and of torch (default, and the bars': 2)"
    )
    parser.add_argument("--out", default="saccade-bench", help="folder for bench.json, bench.png and bench.html")
    parser.add_argument("--no-plots", action="store_true", help="JSON only; needs no matplotlib")


def run(options: argparse.Namespace) -> int:
    try:
        import torch  # noqa: F401
    except ImportError:
        raise SystemExit(
            "saccade bench: got no torch, wanted torch >= 2.10 to compare with; `pip install torch`"
        ) from None
    out = pathlib.Path(options.out)
    if options.bars:
        return run_bars(options, out)
    if not options.no_plots:
        from ._plot import pyplot

        pyplot()
    return run_cases(options, out)


def run_bars(options: argparse.Namespace, out: pathlib.Path) -> int:
    """Prints the bars of every instruction set; 1 if one failed."""
    from saccade.bench import bars

    for group in options.only or ():
        if group not in bars.GROUPS:
            raise SystemExit(f"saccade bench: --only: got {group}, wanted some of {' '.join(bars.GROUPS)}")
    found = bars.run(1.0 if options.quick else 4.0, options.only)
    rows = [
        [label, b.name, b.wanted, b.measured, "pass" if b.passed else "FAIL", b.detail]
        for label, group in found.items()
        for b in group
    ]
    print(table(["ISA", "bar", "wanted", "measured", "", "detail"], rows))
    failed = sum(not b.passed for group in found.values() for b in group)
    print(f"\n{len(rows) - failed} of {len(rows)} bars pass; {bars.THREADS} threads; torch is held to the same ISA")
    out.mkdir(parents=True, exist_ok=True)
    (out / "bars.json").write_text(json.dumps(bars.as_dicts(found), indent=1))
    return 1 if failed else 0


def cases(quick: bool) -> list[Any]:
    from saccade.bench.cases import Case

    if quick:
        flags = [(causal, backward) for causal in (False, True) for backward in (False, True)]
        dtypes = ("float32", "bfloat16")
        found = [
            Case(512, dtype=dtype, causal=causal, backward=backward) for dtype in dtypes for causal, backward in flags
        ]
        return [*found, Case(1, 128, Hq=32, Hk=8, Nk=8192)]
    found = []
    for backward in (False, True):
        for dtype in ("float32", "bfloat16"):
            for n, d in ((512, 64), (2048, 64), (2048, 128)):
                found += [Case(n, d, dtype=dtype, causal=causal, backward=backward) for causal in (False, True)]
        found.append(Case(2048, alibi=True, causal=True, backward=backward))
        found.append(Case(2048, window=(256, 0), causal=True, backward=backward))
        found.append(Case(2048, lengths=(768, 512, 384, 256, 128), causal=True, backward=backward))
    found += [Case(8192, Hq=4, Hk=4, dtype=dtype, causal=True) for dtype in ("float32", "bfloat16")]
    return found + [Case(1, 128, Hq=32, Hk=8, Nk=32768, dtype=dtype) for dtype in ("float32", "bfloat16")]


HEADERS = ["case", "saccade ms", "GF/s", "GB/s", "of limit", "torch ms", "times torch", "error"]


def run_cases(options: argparse.Namespace, out: pathlib.Path) -> int:
    import torch

    import saccade
    from saccade.bench.measure import Row, measure

    before = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    rows: list[Row] = []
    todo = cases(options.quick)
    with Progress(len(todo), "bench") as progress:
        for case in todo:
            rows.append(measure(case, options.threads, *((0.3, 3) if options.quick else (3.0, 5))))
            progress.advance(case.name)
    torch.set_num_threads(before)
    info = saccade.info()
    about = f"saccade {info['version']}, {info['cpu_isa']}; torch {torch.__version__}; {options.threads} threads"
    cells = [
        [
            r.name,
            f"{1e3 * r.seconds:.2f}",
            "" if r.memory else f"{r.gflops:.0f}",
            f"{r.gbytes:.1f}" if r.memory else "",
            f"{100 * r.share:.0f} %",
            "" if r.rival_seconds is None else f"{1e3 * r.rival_seconds:.2f}",
            "" if r.ratio is None else f"{r.ratio:.2f}",
            f"{r.error:.1e}",
        ]
        for r in rows
    ]
    print(table(HEADERS, cells))
    note = (
        "of limit: of the FMA peak, decode of the read bandwidth, measured in turn with the case; error: against fp64"
    )
    print(f"\n{about}\n{note}")
    out.mkdir(parents=True, exist_ok=True)
    found = [vars(r) | {"ratio": r.ratio} for r in rows]
    (out / "bench.json").write_text(json.dumps({"about": about, "rows": found}, indent=1))
    if not options.no_plots:
        from ._plot import html_table, image_tag, page, png

        data = png(plot(rows, about))
        (out / "bench.png").write_bytes(data)
        parts = [
            f"<p>{about}</p>",
            image_tag(data, "times torch SDPA, and share of the limit"),
            html_table(HEADERS, cells),
        ]
        (out / "bench.html").write_text(page("saccade bench", *parts, f"<p>{note}</p>"), encoding="utf-8")
    print(f"written: {out}/")
    return 0


def plot(rows: list[Any], about: str) -> Any:
    """Left: how many times faster than torch SDPA (log scale). Right: share of the machine's limit."""
    from ._plot import pyplot

    plt = pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 1.2 + 0.27 * len(rows)), sharey=True, layout="constrained")
    names = [r.name for r in rows]
    ratios = [r.ratio or 1.0 for r in rows]
    colors = ["#00798c" if x >= 1 else "#d1495b" for x in ratios]
    bars = left.barh(names, [x - 1 for x in ratios], left=1, color=colors)
    left.bar_label(bars, [f"{r.ratio:.2f}x" if r.ratio else "(not in torch)" for r in rows], padding=3, fontsize=8)
    left.axvline(1, color="black", lw=1)
    left.set_xscale("log", base=2)
    left.xaxis.set_major_formatter(plt.FuncFormatter(lambda x, _: f"{x:g}"))
    left.set_xlim(min(0.5, *ratios), 2 * max(2.0, *ratios))
    left.set_title("times as fast as torch SDPA")
    bars = right.barh(names, [100 * r.share for r in rows], color=["#edae49" if r.memory else "#30638e" for r in rows])
    right.bar_label(
        bars, [f"{r.gbytes:.1f} GB/s" if r.memory else f"{r.gflops:.0f} GF/s" for r in rows], padding=3, fontsize=8
    )
    right.set_xlim(0, 120)
    right.set_title("% of FMA peak (yellow: of read bandwidth)")
    left.invert_yaxis()
    figure.suptitle(about, fontsize=10)
    return figure
