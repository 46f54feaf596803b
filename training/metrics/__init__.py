"""What is measured and how: every metric is a pure function whose docstring states its formula."""
