"""Prediction of the next image from a model's readings of the images so far and the chart."""
