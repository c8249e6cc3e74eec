"""Timing beside rivals: `kit` measures, `roofline` asks the machine's limits, `cases` and `bars` say what."""
