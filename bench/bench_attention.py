"""The bench cases of tests/cases.py, timed: `python bench/bench_attention.py [words of their names]`.

The usual run, beside torch and the machine's limits, is `python -m saccade bench`.
"""

import pathlib
import sys

import saccade
import torch
from saccade.bench.kit import alternate
from saccade.cli._console import Progress, table

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests"))
import cases


def main(words: list[str]) -> None:
    torch.set_num_threads(2)
    chosen = [c for c in cases.select(tag="bench", without=None) if all(w in c.name for w in words)]
    rows = []
    with Progress(len(chosen), "bench") as progress:
        for case in chosen:
            inputs = cases.make(case).requiring_grad()

            def forward(inputs=inputs):
                with torch.no_grad():
                    saccade.softmax_attention(*inputs.qkv, **inputs.kwargs)

            def both(inputs=inputs):
                saccade.softmax_attention(*inputs.qkv, **inputs.kwargs).backward(inputs.dout)

            seconds = alternate({"forward": forward, "forward + backward": both}, budget=3.0).seconds
            rows.append([case.name, *(f"{1e3 * s:.2f}" for s in seconds.values())])
            progress.advance(case.name)
    print(table(["case", "forward ms", "forward + backward ms"], rows))


if __name__ == "__main__":
    main(sys.argv[1:])
