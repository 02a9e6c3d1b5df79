"""The steps between the search and the prompt: pure functions on hits, each switched by an option of its own."""
