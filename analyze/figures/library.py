"""matplotlib, which is imported when a figure is drawn, and the look that all figures share."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from schemas.errors import MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["COLUMN", "PAGE", "house_style", "new_figure", "require_matplotlib"]

COLUMN = 3.3
"""Width of one column of a two-column paper, in inches."""
PAGE = 6.9
"""Width of both columns, in inches."""

_INK, _GRID = "#222222", "#E4E4E4"
_STYLE: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],  # matplotlib brings it: the same file on every machine
    "font.size": 7.0,
    "axes.labelsize": 7.5,
    "axes.titlesize": 7.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 4.0,
    "axes.labelpad": 2.5,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "legend.fontsize": 7.0,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "legend.columnspacing": 1.2,
    "legend.borderaxespad": 0.0,
    "legend.labelspacing": 0.3,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.4,
    "lines.markeredgewidth": 0.6,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "grid.color": _GRID,
    "grid.linewidth": 0.5,
    "hatch.linewidth": 0.6,
    "text.parse_math": False,  # a model called a$b$ is called that
    "text.usetex": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "outlier-features",
    "savefig.dpi": 300,
    "figure.constrained_layout.h_pad": 0.03,
    "figure.constrained_layout.w_pad": 0.03,
}


def require_matplotlib() -> None:
    """Raise MissingDependencyError, with the command that mends it, where matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise MissingDependencyError(
            "figures are drawn with matplotlib, which is not installed. "
            "Install it: pip install 'outlier-features[plots]'"
        ) from None


@contextlib.contextmanager
def house_style() -> Iterator[None]:
    """Within it matplotlib draws in the house's look alone, whatever the user's own settings are.

    Characters that the font lacks are boxes in PNG and themselves in SVG, and nobody is warned of each.
    """
    require_matplotlib()
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        for name, value in _STYLE.items():
            matplotlib.rcParams[name] = value  # type: ignore[index]
        warnings.filterwarnings("ignore", r"Glyph .* missing from font")
        warnings.filterwarnings("ignore", r"Matplotlib currently does not support .* natively")
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that size in inches, which lays itself out within it."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
