"""Files of PyTorch: exported programs (`torch.export.save`) and TorchScript (`torch.jit.save`).

Both are programs that run code of their own as they are loaded. `archive`, `trust` and `pickles` do without torch, and
`inspection` until there is something to load.
"""
