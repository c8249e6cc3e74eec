"""Peak memory of one forward and backward beyond inputs, output and gradients, by resident size (Linux), as JSON."""

from __future__ import annotations

import argparse
import json

import torch

from saccade.demo.train import resident

from . import linear
from .cases import Case, lane


def extra(n: int, attention: str) -> dict[str, int]:
    """Bytes beyond q, k, v, dout, out, dq, dk, dv at (1, 8, n, 64) fp32, and the bytes of lse."""
    case = Case(n, backward=True)
    step = lane(case, case.ours) if attention == "softmax" else linear.ours(n, backward=True)
    before = resident("VmRSS")
    with open("/proc/self/clear_refs", "w") as f:
        f.write("5")  # VmHWM starts again from here
    results = step()
    peak = resident("VmHWM")
    return {"n": n, "extra": peak - before - sum(t.nbytes for t in results), "lse": 4 * case.B * case.Hq * n}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("sizes", type=int, nargs="+")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--attention", choices=("softmax", "lightning"), default="softmax")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    extra(256, a.attention)  # code, thread stacks and caches of the allocators are there before the measurement
    print(json.dumps([extra(n, a.attention) for n in a.sizes]))


if __name__ == "__main__":
    main()
