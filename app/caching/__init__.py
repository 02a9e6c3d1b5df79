"""Caches of question vectors and of answers: docs/caching.md."""
