"""The machine's limits, measured in this process: multiply-adds per second and bytes read per second."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

READ_BYTES = 384 << 20  # far more than any last-level cache of a small machine


@functools.cache
def _library() -> ctypes.CDLL:
    path = Path(__file__).parent.parent / "libsaccade_roofline.so"
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise RuntimeError(
            f"bench: roofline: got {error}, wanted {path.name} in the package; reinstall saccade"
        ) from None
    for function in (library.saccade_roofline_fma, library.saccade_roofline_read):
        function.argtypes, function.restype = [ctypes.c_char_p, ctypes.c_int, ctypes.c_int64], ctypes.c_double
    return library


def fma(isa: str, threads: int, rounds: int = 2_000_000) -> float:
    """FLOP/s of float32 multiply-adds from registers, 1 ms per 250 000 rounds. ValueError for an unknown `isa`."""
    return _known(isa, _library().saccade_roofline_fma(isa.encode(), threads, rounds))


def read(isa: str, threads: int, size: int = READ_BYTES) -> float:
    """Bytes per second of streaming reads over `size` bytes of memory."""
    return _known(isa, _library().saccade_roofline_read(isa.encode(), threads, size))


def _known(isa: str, rate: float) -> float:
    if rate <= 0:
        raise ValueError(f"bench: isa: got {isa!r}, wanted an instruction set of this processor; see saccade.info()")
    return rate
