"""Exact counts of outliers at any threshold: from a question, by a plan, from peaks or slices, to results."""
