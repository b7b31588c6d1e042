"""The whole way, in one command: the order of the others, and nothing else."""
