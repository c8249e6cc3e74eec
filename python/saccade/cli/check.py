"""`python -m saccade check`: this installation's kernels against the reference kernel, forward and backward."""

from __future__ import annotations

import argparse
import time
from typing import Any

import saccade

from ._console import Progress, table

REFERENCE = "cpu.reference.attention"
# Largest error over the largest value. The reference sums in fp64: what remains is rounding of sums and of results.
TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2, "float16": 2e-3}

# name: (shape of q, Hk, Nk, options by name of what to build)
CASES: dict[str, tuple[tuple[int, int, int, int], int, int, dict[str, Any]]] = {
    "plain": ((2, 4, 129, 64), 4, 129, {}),
    "causal, GQA": ((1, 8, 130, 64), 2, 200, {"causal": True}),
    "window": ((1, 2, 300, 32), 2, 300, {"window": (40, 9)}),
    "head_dim 40": ((1, 2, 67, 40), 1, 97, {"causal": True}),
    "head_dim 256": ((1, 1, 65, 256), 1, 65, {}),
    "modifiers": ((2, 4, 70, 48), 2, 90, {"causal": True, "softcap": 8.0, "scale": 0.3, "parameters": True}),
    "bool mask": ((2, 2, 50, 32), 2, 70, {"mask": True}),
    "dropout": ((1, 2, 100, 64), 2, 100, {"dropout_p": 0.25, "seed": 7}),
    "varlen": ((0, 4, 150, 64), 2, 150, {"causal": True, "lengths": (97, 1, 52)}),
    "empty rows": ((1, 2, 40, 32), 2, 20, {"causal": True}),
    "decode": ((2, 8, 1, 128), 2, 1500, {"causal": True}),
    "decode, 5 queries": ((1, 8, 5, 64), 2, 1111, {"causal": True}),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kernel", action="append", help="check only this kernel (repeatable)")


def build(case: str, dtype: Any) -> tuple[list[Any], dict[str, Any]]:
    """Tensors that take a gradient, named by position and keyword, and the plain options."""
    import torch

    (b, hq, nq, d), hk, nk, spec = CASES[case]
    g = torch.Generator().manual_seed(1)
    spec = dict(spec)
    options: dict[str, Any] = {}
    lengths = spec.pop("lengths", None)
    shapes = [(nq, hq, d), (nk, hk, d), (nk, hk, d)] if lengths else [(b, hq, nq, d), (b, hk, nk, d), (b, hk, nk, d)]
    qkv = [torch.randn(s, generator=g).to(dtype).requires_grad_() for s in shapes]
    if lengths:
        offsets = torch.tensor([0, *lengths]).cumsum(0).int()
        options |= {"cu_seqlens_q": offsets, "cu_seqlens_k": offsets}
    if spec.pop("mask", False):
        options["bias"] = torch.rand(b, 1, nq, nk, generator=g) > 0.3
    if spec.pop("parameters", False):
        options |= {
            "bias": torch.randn(1, hq, nq, nk, generator=g).requires_grad_(),
            "alibi_slopes": (2.0 ** -torch.arange(1.0, hq + 1)).requires_grad_(),
            "temperature": torch.rand(b, hq, nq, generator=g).add(0.5).requires_grad_(),
            "sinks": torch.randn(hq, generator=g).requires_grad_(),
            "head_gate": torch.rand(b, hq, nq, generator=g).requires_grad_(),
        }
    return qkv, options | spec


def results(kernel: str, qkv: list[Any], options: dict[str, Any]) -> dict[str, Any]:
    """out, lse and every gradient, by name."""
    import torch

    wanted = dict(zip("qkv", qkv, strict=True))
    wanted |= {n: t for n, t in options.items() if isinstance(t, torch.Tensor) and t.requires_grad}
    with saccade.kernels.use(kernel):
        out, lse = saccade.softmax_attention(*qkv, return_lse=True, **options)
        g = torch.Generator().manual_seed(2)
        dout = torch.randn(out.shape, generator=g).to(out)
        grads = torch.autograd.grad(out, list(wanted.values()), dout)
    return {"out": out.detach(), "lse": lse.detach()} | {f"d{n}": t for n, t in zip(wanted, grads, strict=True)}


def error(got: dict[str, Any], want: dict[str, Any]) -> tuple[float, str]:
    """The largest error over the largest finite value of its tensor, and the tensor's name."""
    worst = (0.0, "out")
    for name, w in want.items():
        a, b = got[name].double(), w.double()
        finite = b.isfinite()
        if a.shape != b.shape or not a[~finite].equal(b[~finite]):
            return float("inf"), name
        if finite.any():
            gap = (a[finite] - b[finite]).abs().max() / b[finite].abs().max().clamp(min=1e-3)
            worst = max(worst, (float("inf") if gap.isnan() else gap.item(), name))
    return worst


def check_numpy() -> tuple[float, str]:
    """The DLPack binding: NumPy arrays give what torch tensors give."""
    import numpy as np
    import torch

    qkv, _ = build("causal, GQA", torch.float32)
    arrays = [t.detach().numpy() for t in qkv]
    got = np.asarray(saccade.softmax_attention(*arrays, causal=True))
    want = saccade.softmax_attention(*[t.detach() for t in qkv], causal=True)
    return error({"out": torch.from_numpy(got.copy())}, {"out": want})


def run(options: argparse.Namespace) -> int:
    """Prints the errors by case and kernel, then what failed; 1 if something did."""
    try:
        import torch
    except ImportError:
        raise SystemExit(
            "saccade check: got no torch, wanted torch >= 2.10 for gradients; `pip install torch`"
        ) from None
    begin = time.monotonic()
    known = {k.name: k.reason for k in saccade.kernels.list() if k.op == "attention"}
    for name in options.kernel or ():
        if name not in known:
            raise SystemExit(f"saccade check: --kernel: got {name}, wanted one of {', '.join(known)}")
    kernels = [n for n, reason in known.items() if not reason and n != REFERENCE]
    kernels = [n for n in options.kernel or kernels if not known[n]] or [REFERENCE]
    skipped = [[n, reason] for n, reason in known.items() if reason and (not options.kernel or n in options.kernel)]
    rows: dict[tuple[str, str], list[str]] = {}
    faults: list[str] = []
    with Progress(len(CASES) * len(TOLERANCE), "check") as progress:
        for case in CASES:
            for dtype, tolerance in TOLERANCE.items():
                qkv, extra = build(case, getattr(torch, dtype))
                want = results(REFERENCE, qkv, extra)
                for kernel in kernels:
                    try:
                        worst, name = error(results(kernel, qkv, extra), want)
                        text = f"{worst:.1e}"
                        if not worst <= tolerance:
                            faults.append(
                                f"{kernel}, {case}, {dtype}: error {text} in {name}, wanted at most {tolerance:g}"
                            )
                    except RuntimeError as problem:
                        text = "raised"
                        faults.append(f"{kernel}, {case}, {dtype}: {problem}")
                    rows.setdefault((case, kernel), []).append(text)
                progress.advance(case)
    if saccade.info()["dlpack_binding"] is None:
        worst, name = check_numpy()
        rows["NumPy arrays", "first choice"] = [f"{worst:.1e}", "", ""]
        if not worst <= TOLERANCE["float32"]:
            faults.append(
                f"NumPy arrays: error {worst:.1e} against torch tensors, wanted at most {TOLERANCE['float32']:g}"
            )
    heads = [f"{dtype} (<= {tolerance:g})" for dtype, tolerance in TOLERANCE.items()]
    print("Largest error of out, lse and every gradient against the reference, over the largest value:\n")
    print(table(["case", "kernel", *heads], [[*key, *cells] for key, cells in rows.items()]))
    for name, reason in skipped:
        print(f"not here: {name}: {reason}")
    if options.kernel and any(n in options.kernel for n, _ in skipped):
        faults.append("a kernel that --kernel names cannot run here")
    print("\n".join(["", *(f"FAILED {fault}" for fault in faults)]))
    checks = sum(bool(cell) for cells in rows.values() for cell in cells)
    print(f"{checks} checks, {len(faults)} failed, {time.monotonic() - begin:.1f} s")
    return 1 if faults else 0
