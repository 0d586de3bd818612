"""Smoothing: make activations of matrix products easier to round, the products staying what they are in float.

Dividing channel j of an activation by s_j and multiplying row j of the weights by it changes nothing in float; with
s_j = max|X_j|^α / max|W_j|^(1−α) both are easier to quantize (Xiao et al. 2023, "SmoothQuant", eq. 4). What no divisor
evens out is a channel far beyond all others: such ones leave the product of integers, and are multiplied in float
beside it (Dettmers et al. 2022, "LLM.int8()", §3). One or two make most of the difference: 4 to 5 dB at the second
product of MiniLM's first four feed-forward blocks.

`shared` finds activations with the products that read them, `seen` observes them, `search` finds what serves them best,
`applying` changes the model. Activations may be quantized by ranges found beforehand (`recovery/smoothquant.py`) or at
run time (`dynamic.py`): the two differ in the range that a row is rounded by, and in nothing else.
"""
