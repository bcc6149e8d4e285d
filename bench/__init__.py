"""Benchmarks: each a ratio against a baseline run beside it in the same process, round by round.

``python -m bench`` runs them and writes docs/benchmarks.md; nobody edits that file by hand.
"""
