"""The record of a training sample and its truth."""
