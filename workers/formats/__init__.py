"""Inspect and read what people upload: models and datasets, none of it trusted."""
