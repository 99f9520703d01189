"""From clips and annotators to samples: one module per family of data sets, each a pure function and a value."""
