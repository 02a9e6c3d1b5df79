"""Load tests with Locust. Importing this package, or a module that does not say otherwise, does not import Locust:
that would put gevent's sockets and threads in the place of Python's own, in the whole process."""

HOST = "http://127.0.0.1:8000"
"""Where `make run` serves."""
