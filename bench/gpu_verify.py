"""Everything that a card must confirm, from an installed saccade with CUDA kernels; builds nothing, writes one JSON.

    python bench/gpu_verify.py [--out FILE] [--skip tests,sanitizer,bench]

1. tests: tests/ with every CUDA kernel of the build, on the card.
2. sanitizer: compute-sanitizer's memcheck, racecheck, initcheck and synccheck over a few cases, forward and backward.
3. bench: softmax and sigmoid, forward and backward, against torch SDPA's flash, cuDNN and efficient backends; lightning
   attention against flash-linear-attention where that is installed. Each result is first compared with float32
   arithmetic, every lane runs in turn, and medians of CUDA event times are printed with ratios.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import xml.etree.ElementTree as xml
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KERNEL, LINEAR_KERNEL = "cuda.sm80.attention", "cuda.sm80.linear"
SANITIZED = (
    "gqa8x2-float32",
    "n129-bfloat16",
    "varlen-all-float16",
    "window-empty-float32",
    "all-bfloat16",
    "decode-all-float16",
)
SANITIZED_LINEAR = ("token_state", "channel_packed", "normalize_bf16", "head_grouped", "global_state")
BACKENDS = ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION")
ROUNDS = 15


def facts() -> dict:
    import saccade
    import torch

    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    properties = torch.cuda.get_device_properties(0)
    return {
        "card": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "saccade": saccade.info()["version"],
        "commit": commit,
        "kernels": [
            f"{k.op} {k.name} {k.reason}".strip() for k in saccade.kernels.list() if k.name.startswith("cuda.")
        ],
    }


def tests() -> dict:
    report = ROOT / "build" / "gpu_verify.xml"
    report.parent.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-k", "cuda", f"--junitxml={report}", "tests"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    suite = next(xml.parse(report).iter("testsuite"))
    counts = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    return counts | {"seconds": float(suite.get("time", 0)), "tail": run.stdout[-2000:]}


def sanitizer() -> dict:
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        return {"skipped": "no compute-sanitizer on the path"}
    results = {}
    for check in ("memcheck", "racecheck", "initcheck", "synccheck"):
        command = [tool, "--tool", check, "--error-exitcode", "9", sys.executable, __file__, "--sanitized"]
        run = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        )
        results[check] = {"rc": run.returncode, "tail": (run.stdout + run.stderr)[-1500:]}
    return results


def sanitized() -> None:
    """What runs under compute-sanitizer."""
    sys.path.insert(0, str(ROOT / "tests"))
    import cases
    import helpers
    import linear_cases
    import saccade
    import test_linear

    with saccade.kernels.use(KERNEL):
        for name in SANITIZED:
            helpers.run(cases.make(cases.BY_NAME[name]))
    with saccade.kernels.use(LINEAR_KERNEL):
        for case in linear_cases.CASES:
            if case.name in SANITIZED_LINEAR:
                test_linear.run(linear_cases.make(case))


def time_lanes(lanes: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median milliseconds of each lane, all running in turn."""
    import torch

    times: dict[str, list[float]] = {name: [] for name in lanes}
    for call in lanes.values():
        call()
        call()
    for turn in range(ROUNDS):
        for name in list(lanes)[:: 1 if turn % 2 == 0 else -1]:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            lanes[name]()
            end.record()
            torch.cuda.synchronize()
            times[name].append(begin.elapsed_time(end))
    return {name: statistics.median(t) for name, t in times.items()}


def bench_case(B: int, H: int, N: int, D: int, causal: bool, dtype_name: str) -> dict:
    import saccade
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention as sdpa

    dtype = getattr(torch, dtype_name)
    q, k, v, dout = (torch.randn(B, H, N, D, device="cuda", dtype=dtype).requires_grad_(i < 3) for i in range(4))

    def ours() -> torch.Tensor:
        with saccade.kernels.use(KERNEL):
            return saccade.softmax_attention(q, k, v, causal=causal)

    def torch_with(backend: str) -> Callable[[], torch.Tensor]:
        def call() -> torch.Tensor:
            with sdpa_kernel(getattr(SDPBackend, backend)):
                return sdpa(q, k, v, is_causal=causal)

        return call

    def sigmoid() -> torch.Tensor:
        with saccade.kernels.use(KERNEL):
            return saccade.sigmoid_attention(q, k, v, causal=causal)

    lanes: dict[str, Callable[[], torch.Tensor]] = {"saccade": ours, "sigmoid": sigmoid}
    for backend in BACKENDS:
        try:
            torch_with(backend)()
            lanes[backend.lower()] = torch_with(backend)
        except RuntimeError:
            continue

    rows = min(N, 512)  # the last queries, in float32, for one head
    with torch.no_grad():
        s = (q[0, 0, -rows:].float() @ k[0, 0].float().T) / math.sqrt(D)
        if causal:
            i = torch.arange(N - rows, N, device="cuda")[:, None]
            s = s.masked_fill(torch.arange(N, device="cuda")[None] > i, float("-inf"))
        want = s.softmax(-1) @ v[0, 0].float()
        wants = {"sigmoid": (s - math.log(N)).sigmoid() @ v[0, 0].float()}
        errors = {
            name: (call()[0, 0, -rows:].float() - wants.get(name, want)).abs().max().item()
            for name, call in lanes.items()
        }
    rivals = [e for n, e in errors.items() if n not in ("saccade", "sigmoid")]
    if max(errors["saccade"], errors["sigmoid"]) > max(2 * max(rivals, default=0.0), 1e-5):
        return {"wrong": errors}

    def step(call: Callable[[], torch.Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(call(), (q, k, v), dout)

    with torch.no_grad():
        forward = time_lanes(lanes)
    both = time_lanes({name: step(call) for name, call in lanes.items()})
    flops = 4 * B * H * N * N * D / (2 if causal else 1)
    return {
        "case": f"{dtype_name} B{B} H{H} N{N} D{D}{' causal' if causal else ''}",
        "errors": errors,
        "forward_ms": forward,
        "forward_tflops": {n: flops / ms / 1e9 for n, ms in forward.items()},
        "backward_ms": {n: both[n] - forward[n] for n in both},
        "forward_ratio": {n: ms / forward["saccade"] for n, ms in forward.items()},
        "both_ratio": {n: ms / both["saccade"] for n, ms in both.items()},
    }


def bench_linear(B: int, H: int, N: int, D: int, dtype_name: str) -> dict:
    import saccade
    import torch

    dtype = getattr(torch, dtype_name)
    q, k, v, dout = (torch.randn(B, H, N, D, device="cuda", dtype=dtype).requires_grad_(i < 3) for i in range(4))
    decay = torch.tensor(saccade.linear.linear_head(H, 0, 2), device="cuda")

    def ours() -> torch.Tensor:
        with saccade.kernels.use(LINEAR_KERNEL):
            return saccade.linear_attention(q, k, v, log_decay=decay, scale=D**-0.5)

    lanes: dict[str, Callable[[], torch.Tensor]] = {"saccade": ours}
    try:
        from fla.ops.simple_gla import chunk_simple_gla

        g = decay.expand(B, N, H).contiguous()
        heads_last = lambda x: x.transpose(1, 2).contiguous()  # noqa: E731
        qf, kf, vf = (heads_last(x).detach().requires_grad_(True) for x in (q, k, v))
        lanes["fla"] = lambda: chunk_simple_gla(qf, kf, vf, g=g, scale=D**-0.5)[0].transpose(1, 2)
    except ImportError:
        pass

    rows, h = min(N, 256), H // 2
    with torch.no_grad():
        i = torch.arange(N - rows, N, device="cuda")[:, None] - torch.arange(N, device="cuda")
        weights = torch.where(i >= 0, torch.exp(decay[h] * i.clamp(min=0)), 0.0)
        want = (weights * (q[0, h, -rows:].float() @ k[0, h].float().T) * D**-0.5) @ v[0, h].float()
        errors = {
            n: ((c()[0, h, -rows:].float() - want).abs().max() / want.abs().max()).item() for n, c in lanes.items()
        }
    if errors["saccade"] > max(2 * errors.get("fla", 0.0), 1e-2 if dtype_name != "float32" else 1e-4):
        return {"wrong": errors}

    def step(call: Callable[[], torch.Tensor], leaves: tuple) -> Callable[[], object]:
        return lambda: torch.autograd.grad(call(), leaves, dout)

    with torch.no_grad():
        forward = time_lanes(lanes)
    leaves = {"saccade": (q, k, v)} | ({"fla": (qf, kf, vf)} if "fla" in lanes else {})
    both = time_lanes({name: step(call, leaves[name]) for name, call in lanes.items()})
    return {
        "case": f"lightning {dtype_name} B{B} H{H} N{N} D{D}",
        "errors": errors,
        "forward_ms": forward,
        "both_ms": both,
        "forward_ratio": {n: ms / forward["saccade"] for n, ms in forward.items()},
        "both_ratio": {n: ms / both["saccade"] for n, ms in both.items()},
    }


def bench() -> list[dict]:
    import torch

    results = []
    for B, H, N, D in ((4, 32, 8192, 128), (1, 16, 65536, 128), (8, 16, 2048, 64)):
        torch.cuda.empty_cache()
        results.append(bench_linear(B, H, N, D, "bfloat16"))
        print(results[-1], flush=True)
    for dtype in ("bfloat16", "float32"):
        for D in (64, 128, 256):
            for N in (1024, 4096, 16384):
                for causal in (False, True):
                    if dtype == "float32" and N > 4096:
                        continue
                    torch.cuda.empty_cache()
                    results.append(bench_case(max(1, 16384 // N), 16, N, D, causal, dtype))
                    row = results[-1]
                    print(
                        row.get("case"),
                        row.get("forward_ratio"),
                        row.get("both_ratio"),
                        row.get("wrong", ""),
                        flush=True,
                    )
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu_verify.json"))
    parser.add_argument("--skip", default="", help="comma-separated: tests, sanitizer, bench")
    parser.add_argument("--sanitized", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.sanitized:
        sanitized()
        return 0
    import torch

    if not torch.cuda.is_available():
        print("gpu_verify: got no CUDA device, wanted one; emulated kernels are tested by `make test-cuda`")
        return 2
    skip = arguments.skip.split(",")
    report: dict = {"facts": facts()}
    for name, part in (("tests", tests), ("sanitizer", sanitizer), ("bench", bench)):
        if name not in skip:
            report[name] = part()
            arguments.out.write_text(json.dumps(report, indent=1))
    print(json.dumps({k: v for k, v in report.items() if k != "bench"}, indent=1))
    failed = any(report.get("tests", {}).get(k) for k in ("failures", "errors"))
    failed |= any(r.get("rc") for r in report.get("sanitizer", {}).values() if isinstance(r, dict))
    failed |= any("wrong" in r for r in report.get("bench", []))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
