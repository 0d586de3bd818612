"""Ranges of activations: observed in one pass, by any method, in memory that does not grow with the rows."""
