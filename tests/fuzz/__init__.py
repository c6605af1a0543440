"""A fuzzer: cases made from a seed, run by every instruction set, held against the formulas.

    python tests/fuzz                      60 seconds, two workers, seeds from 0 on
    python tests/fuzz --calls 1000000 --workers 2
    python tests/fuzz --functions hard_attention,attention_vjp --isa avx2
    python tests/fuzz --replay 0x1d872b41a9e5c1f3

A case is a pure function of its seed of 64 bits: which function, shapes, dtypes, strides, reaches,
values, threads and instruction sets. Workers are processes of their own, so that a crash or a hang
is one finding among others; each tells the seed that it is at. What is found is made simpler, one
choice after the other, as long as it stays a finding, and is printed with the command that runs it
again.
"""
