"""`python -m saccade demo`: one small transformer trained on real text with every attention of `attentions`."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="saccade-demo", help="folder for report.html, the plots and result.json")
    parser.add_argument(
        "--steps", type=int, default=0, help="training steps; default: as many as fit in --seconds, 60…200"
    )
    parser.add_argument("--seconds", type=float, default=150.0, help="time for all trainings together (default 150)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: torch's)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sample", type=int, default=240, help="bytes of text to sample at the end")
    parser.add_argument("--lengths", type=int, nargs="*", default=None, help="sequence lengths to measure the speed at")
    parser.add_argument("--config", default="{}", help='model, as JSON over the defaults, e.g. {"layers": 2}')
    parser.add_argument("--no-plots", action="store_true", help="write result.json only; needs no matplotlib")


def run(options: argparse.Namespace) -> int:
    from .compare import LENGTHS, run

    options.lengths = LENGTHS if options.lengths is None else options.lengths
    return run(options)
