"""Do the intervals hold the truth as often as they say? Simulated, on populations whose truth is known.

`python -m benchmarks.coverage [METRIC …] [--trials N] [--development]` draws sets of rows of `fresh.py`, populations
that no constant of any interval was chosen by; `--development` those of `development.py`, by which they were. The rows
are of 140, of 500 and of photographs with several views each, whose values are alike; calls that follow each other are
in `series.py`.

For every metric the table has how many of the two-sided 95 % intervals of its value, and of its paired drop, hold the
truth, with the standard error of so many trials; how many are flagged `heavy_tail`, and how many hold of those that
are not; and how wide they are on average beside the exact interval of independent rows where there is one: Clopper and
Pearson's for shares, Student's t for means, DeLong's normal one for areas under curves. The latter two are exact only
of normal values, so the share that they hold stands beside, and a width counts only where that is 93 % too.

The truth is that of a great set; where the value of a set depends on its size (retrieval), the mean of many sets; and
of detections that of the pool which sets are drawn from. `low` is below 93 %, `no` by more than two standard errors;
with one of these, or widths of more than 1.3 times the exact, it exits with 1.
"""
