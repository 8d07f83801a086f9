"""What ``tvc benchmark`` and ``benchmarks/`` share: the timing, the op suite, whole models, results and their plots."""
