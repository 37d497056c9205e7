"""Training of the two networks: data, augmentation, loop, evaluation, export."""
