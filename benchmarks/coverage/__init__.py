"""Do the intervals hold the truth as often as they say? Simulated, on populations whose truth is known.

`python -m benchmarks.coverage [METRIC …] [--trials N] [--development]` draws sets of rows of `fresh.py`, populations
that no method or constant of an interval was chosen by; `--development` those of `development.py`, by which they were.
Sets are of 140 rows, of 500, and of 140 photographs with 4 views each, which are alike; calls that follow each other
are in `series.py`.

For every metric the table has, of the two-sided 95 % intervals of its value and of its paired drop, how many hold the
truth (with the standard error of so many trials), how many are flagged `heavy_tail`, how many hold `or` are flagged,
how many of those without a flag (`else`) hold, and how wide they are on average. Where a metric compares with the
original, its drop is its distance from the ideal, which holds where the value does. Beside stands the width of the
exact interval of independent rows where there is one: Clopper and Pearson's for shares, Student's t for means, DeLong's
normal one for areas under curves. The latter two are exact of normal values alone, so how many of them hold stands
beside, and a width counts only where that is 93 % too.

The truth is that of a great set; where the value of a set depends on its size (retrieval), the mean of many sets; and
of detections that of the pool which sets are drawn from. What is held against 93 % is how many hold, or, where more
than one in twenty is flagged, how many hold or are flagged: `low` is below it, `no` by more than two standard errors.
With one `no`, or one width of more than 1.3 times the exact, it exits with 1.
"""
