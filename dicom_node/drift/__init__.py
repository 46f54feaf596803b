"""Drift: what images and answers look like week by week, against what they looked like before."""
