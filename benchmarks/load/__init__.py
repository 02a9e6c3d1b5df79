"""The load generator: a process of its own (`python -m benchmarks.load`) that sends requests and times the answers.

`drive.py` starts it, `generator.py` runs in it; a `Load` goes in as JSON, an `Outcome` comes out.
"""
