"""The paper's figure: a frozen encoder, a learned decoder, their weights and checkpoints."""
