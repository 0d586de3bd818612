"""What an int8 artifact computes on processors with and without VNNI, worked out on any processor.

`arithmetic` multiplies as the two kinds of processor do, `kernels` are the runtime's operators on top of it, `lowering`
asks the runtime which operators it runs an artifact as, `emulator` runs them, and `prediction` compares. `probe` finds
out which kind of processor this is.
"""
