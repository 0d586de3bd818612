"""Which parts of a quantized model cost its outputs how much, from far fewer runs than one for each part.

The parts are layers (a quantized product or join, with its weights and the activations that it reads and makes) and
tensors (one activation, or the weights of one node).
"""
