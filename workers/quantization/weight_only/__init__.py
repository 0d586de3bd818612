"""Weights in few bits, in blocks with a scale each: layout, algorithms, and the graphs that hold them."""
