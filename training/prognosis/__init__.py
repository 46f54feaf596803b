"""Training and measuring the prognosis head on phantom courses and on real series."""
