"""A GPU run that is one command, rehearsed on the CPU: `python -m examples.benchmarks.gpu`."""
