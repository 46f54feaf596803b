"""Retraining: the node learns from its own hospital, and a challenger serves only if it is measurably better."""
