"""Training: the autoencoder of the tiny model, and the transformer with its text encoder (accelerate)."""
