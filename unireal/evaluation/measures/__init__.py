"""What can be measured of outputs: pure functions, and measures that apply them to the items of a benchmark."""
