"""Quantisation simulated on the slices: the error that each format makes of the activation at a site.

``FORMATS`` lists them, ``Quantisation`` is the statistic; docs/quantisation.md defines every number.
"""
