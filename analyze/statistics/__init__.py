"""Statistics of the slices: each a ``chunk -> combine -> finalize``, all that are asked for in one pass out of core.

``measure`` runs the pass, ``STATISTICS`` lists what can be measured; docs/decisions/050 says how the pass works.
"""
