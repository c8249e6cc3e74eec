"""`python -m saccade info`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os

import saccade

from ._console import table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="the same as one JSON object")


def run(options: argparse.Namespace) -> int:
    """Prints versions, build and kernels."""
    try:
        import torch  # noqa: F401  so that its version and binding are reported
    except ImportError:
        pass
    info = saccade.info()
    info["environment"] = {k: v for k, v in sorted(os.environ.items()) if k.startswith("SACCADE_")}
    kernels = info.pop("kernels")
    if options.json:
        print(json.dumps(info | {"kernels": [dataclasses.asdict(k) for k in kernels]}, indent=1))
        return 0
    for name, value in info.items():
        if name.endswith("_binding"):
            value = "present" if value is None else f"missing: {value}"
        elif name == "environment":
            value = " ".join(f"{k}={v}" for k, v in value.items())
        print(f"{name.replace('_', ' '):16} {value if value not in (None, '') else '-'}")
    print("\nKernels in order of preference; the first that can run the call is used (saccade.kernels.explain):\n")
    first: set[str] = set()
    rows = []
    for k in kernels:
        usual = not k.reason and k.op not in first
        first |= {k.op} if usual else set()
        rows.append([k.op, k.name, "first choice" if usual else "can run" if not k.reason else k.reason])
    print(table(["operation", "kernel", "here"], rows))
    return 0
