"""The command `halo`: arguments, printing, exit codes, and nothing else."""
