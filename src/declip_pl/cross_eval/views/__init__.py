"""What people look at of a cross-evaluation: report, plots, W&B."""
