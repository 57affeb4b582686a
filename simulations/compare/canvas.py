"""What the pictures of a comparison share: an empty figure, its bytes, and text that is no formula.

Example::

    figure = blank(9, 5, "Final accuracy by site")
    png = png_of(figure)
"""

import io

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fedrelease.simulations.curve import INK

__all__ = ["blank", "png_of", "safe"]


def blank(width: float, height: float, title: str) -> Figure:
    """A figure with a title, drawn without a screen."""
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=14, color=INK, x=0.01, ha="left")
    return figure


def png_of(figure: Figure) -> bytes:
    """Equal figures give equal bytes."""
    png = io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    return png.getvalue()


def safe(text: str) -> str:
    """Text that matplotlib does not take for a formula."""
    return text.replace("$", r"\$")
