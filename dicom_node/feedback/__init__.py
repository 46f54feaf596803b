"""Feedback of radiologists on the node's results."""
