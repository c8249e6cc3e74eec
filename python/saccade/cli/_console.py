"""Text tables and a progress line, without dependencies: `info` and `check` must run in a bare installation."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterable, Sequence


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns padded to their widest cell; a column of numbers (every filled cell starts like one) is right-aligned."""
    cells = [[("" if c is None else f"{c:.3g}" if isinstance(c, float) else str(c)) for c in row] for row in rows]
    columns = list(zip(*cells, strict=True)) if cells else [()] * len(headers)
    widths = [max([len(h), *map(len, column)]) for h, column in zip(headers, columns, strict=True)]
    right = [any(column) and all(not c or c[0] in "-+0123456789" for c in column) for column in columns]

    def line(row: Sequence[str]) -> str:
        parts = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True))
        return "  ".join(parts).rstrip()

    return "\n".join([line(headers), "  ".join("-" * w for w in widths), *map(line, cells)])


class Progress:
    """A bar on stderr with the time left; where stderr is not a terminal, a line every five seconds."""

    def __init__(self, total: int, title: str):
        self.total, self.title, self.done = max(total, 1), title, 0
        self.start = self.shown = time.monotonic()
        self.tty = sys.stderr.isatty()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.tty:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def advance(self, note: str = "", steps: int = 1) -> None:
        """Counts `steps` as done and shows `note` beside the bar."""
        self.done += steps
        now = time.monotonic()
        if now - self.shown < (0.1 if self.tty else 5.0) and self.done < self.total:
            return
        self.shown = now
        left = (now - self.start) / max(self.done, 1) * (self.total - self.done)
        text = f"{self.title} {self.done}/{self.total}"
        if self.tty:
            filled = round(20 * self.done / self.total)
            text += f" [{'█' * filled}{'·' * (20 - filled)}] {left:.0f} s left  {note}"
            sys.stderr.write("\r\x1b[K" + text[: shutil.get_terminal_size().columns - 1])
        else:
            sys.stderr.write(f"{text}, {left:.0f} s left  {note}".rstrip() + "\n")
        sys.stderr.flush()
