"""The commands behind `python -m saccade`; see `main`."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence

COMMANDS = {
    "info": "versions, build, instruction set in use, kernels and why the others were not chosen",
    "check": "test this installation against the reference kernel, in under 30 s",
    "bench": "time saccade beside torch SDPA: table, JSON, PNG and HTML; --bars for the project's bars",
    "demo": "train a small byte-level transformer on real text with torch SDPA and with saccade, and compare",
}
MODULES = {name: f"saccade.cli.{name}" for name in COMMANDS} | {"demo": "saccade.demo"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m saccade", description="Attention kernels for CPU and GPU.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        importlib.import_module(MODULES[name]).add_arguments(command)
    options = parser.parse_args(arguments)
    return importlib.import_module(MODULES[options.command]).run(options)
