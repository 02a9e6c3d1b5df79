"""Training of our own small models on the data at hand."""
