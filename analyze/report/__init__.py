"""The interactive report: one self-contained page, a pure function of an ``Overview``."""
