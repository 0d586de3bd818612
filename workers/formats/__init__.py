"""Inspect and read what people upload: models and datasets, none of it trusted."""

from workers.formats.datasets.opening import open_dataset

__all__ = ["open_dataset"]
