"""Locust's own figures for Prometheus: GET /metrics of the process that the users are started from.

Imports gevent's server, and is for Locust's process only.
"""

from __future__ import annotations

import logging

from gevent.pywsgi import WSGIServer
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.registry import Collector

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
PORT = 9646


def serve(collector: Collector, port: int, host: str) -> WSGIServer | None:
    """Serve it until the process ends. None, and a warning, where the port is taken: no reason not to test."""
    registry = CollectorRegistry()
    registry.register(collector)
    server = WSGIServer((host, port), make_wsgi_app(registry), log=None)
    try:
        server.start()
    except OSError as exc:
        log.warning("no metrics for Prometheus: http://%s:%d/metrics cannot be served (%s)", host, port, exc.strerror)
        return None
    log.info("metrics for Prometheus: http://%s:%d/metrics", host, server.server_port)
    return server
