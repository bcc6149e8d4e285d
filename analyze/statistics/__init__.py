"""Statistics of the slices: each a ``chunk -> combine -> finalize``, all that are asked for in one pass out of core.

``measure`` runs the pass, ``STATISTICS`` lists what can be measured; docs/decisions/050 says how the pass works. The
package can be called: ``from analyze import statistics`` is ``analyze.measured.statistics`` whether or not this
package, which has the same name, has been imported before.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Called(ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        from analyze.measured import statistics

        return statistics(*arguments, **options)


sys.modules[__name__].__class__ = _Called
