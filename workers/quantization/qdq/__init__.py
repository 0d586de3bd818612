"""QDQ form: which tensors a static technique quantizes, and the nodes that say so in the graph."""
