"""The models that answer: their processes, batching, promotion and the shadow."""
