"""Training data: Parquet records, weighted mixtures of data sets, and batches of one layout."""
