"""The views that are drawn, a module each with what it is as ``VIEW``; a new one is a new module."""

from __future__ import annotations

import importlib
import pkgutil

from analyze.figures.view import View

__all__ = ["load_views"]


def load_views() -> dict[str, View]:
    """All views by name, in order; matplotlib is not imported.

    >>> list(load_views())[:2]
    ['outliers-by-magnitude', 'phase-map']
    """
    found = {
        module.name.replace("_", "-"): importlib.import_module(f"{__name__}.{module.name}").VIEW
        for module in pkgutil.iter_modules(__path__)
    }
    return dict(sorted(found.items(), key=lambda item: (item[1].order, item[0])))
