"""Datasets: one reading interface over arrays, tables and pictures."""
