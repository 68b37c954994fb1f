"""Figures as SVG that stands inside a page."""

from __future__ import annotations

import io
import re

from matplotlib.figure import Figure


def inline_svg(figure: Figure, title: str) -> str:
    """Return a figure as an ``<svg>`` element; the same figure gives the same text.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        What to draw.
    title : str
        Said to those who do not see it; no two on one page are the same.
    """
    import matplotlib as mpl

    stream = io.StringIO()
    # Text stays text, in the page's own font; a fixed salt makes the same run the same page.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    drawing = stream.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    # Inside HTML these need no namespaces, and without a fixed size the drawing fits its column.
    drawing = re.sub(r'\s(xmlns(:\w+)?|version|width|height)="[^"]*"', "", drawing, count=5)
    # Names inside a drawing must differ from those of the next one on the page.
    prefix = re.sub(r"\W", "-", title)
    drawing = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", drawing)
    return drawing.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
