"""From a prediction to documents: codes → content → documents, and the same result as text, page and picture."""
