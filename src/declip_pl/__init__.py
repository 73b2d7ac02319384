"""DeCLIP as a PyTorch Lightning experiment package (arXiv 2409.08849)."""
