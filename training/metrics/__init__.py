"""Metrics: each is a pure function whose docstring states its formula."""
