"""The views of an overview as figures and tables for a paper."""
