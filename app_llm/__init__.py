"""The model service: a SentenceTransformer encoder and a vLLM generator behind one HTTP API."""
