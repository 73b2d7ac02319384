"""The pieces of a long command as jobs: of a SLURM cluster, or in several processes here."""
