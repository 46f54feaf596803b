"""The chart of a patient: laboratory values and treatments, each with the time at which it was known."""
