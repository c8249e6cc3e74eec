"""matplotlib figures, as PNG bytes and inside one self-contained HTML page."""

from __future__ import annotations

import base64
import html
import io
from typing import Any

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2rem}img{max-width:100%}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .8rem;border-bottom:1px solid #ddd;text-align:left}
td{font-variant-numeric:tabular-nums}pre{background:#f6f6f6;padding:1rem;white-space:pre-wrap;overflow-wrap:anywhere}"""


def pyplot() -> Any:
    """matplotlib.pyplot on the file backend, or SystemExit with what to install."""
    try:
        import matplotlib
    except ImportError:
        raise SystemExit(
            "saccade: plots need matplotlib: got no such package; `pip install matplotlib`, or add --no-plots"
        ) from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(
        {"figure.dpi": 110, "axes.grid": True, "grid.alpha": 0.3, "axes.spines.top": False, "axes.spines.right": False}
    )
    return plt


def png(figure: Any) -> bytes:
    """The figure as a PNG; it is closed."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    pyplot().close(figure)
    return buffer.getvalue()


def image_tag(data: bytes, alt: str) -> str:
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'


def html_table(headers: list[str], rows: list[list[object]]) -> str:
    def cells(tag: str, row: list[object]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(c))}</{tag}>" for c in row) + "</tr>"

    return "<table>" + cells("th", list(headers)) + "".join(cells("td", row) for row in rows) + "</table>"


def page(title: str, *parts: str) -> str:
    """A whole HTML document that refers to nothing outside itself."""
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    return f"<!doctype html><html><head>{head}</head><body><h1>{html.escape(title)}</h1>{''.join(parts)}</body></html>"
