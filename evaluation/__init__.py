"""Is the right passage found, and is the answer right? Through the real pipeline, on data with judgements."""
