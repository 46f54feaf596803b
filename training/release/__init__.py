"""From a trained folder to a published checkpoint."""
