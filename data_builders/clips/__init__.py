"""From raw videos to clips that are worth training on: decoding, shots, quality, motion, near-duplicates."""
