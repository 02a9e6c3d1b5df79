"""`python -m locust_testing [--host URL] [Locust's options]`: a load test without a screen, and its report.

Writes report.html and the CSV files to volumes/load/<time>/. Exits with 0, with 1 when a threshold was missed, and with
2 when there is nothing to test.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from locust_testing import HOST

FOLDER = Path("volumes/load")
CHECK_SECONDS = 10.0


def main(arguments: list[str]) -> None:
    """Check the address and become Locust."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-H", "--host", default=os.environ.get("LOCUST_HOST") or HOST)
    given, _ = parser.parse_known_args(arguments)
    host = given.host.rstrip("/")
    if (why := _silent(host)) is not None:
        print(
            f"pharos: nothing to test at {host} ({why}). Start Pharos with `make run`, or say where it is: "
            "make load HOST=http://name:port",
            file=sys.stderr,
        )
        sys.exit(2)
    folder = FOLDER / time.strftime("%Y%m%d-%H%M%S")
    folder.mkdir(parents=True)
    where = "this machine" if _is_loopback(host) else "ANOTHER MACHINE than this one"
    print(f"load test of {host} ({where}); report: {folder / 'report.html'}", flush=True)
    locustfile = Path(__file__).with_name("locustfile.py")
    command = [sys.executable, "-m", "locust", "-f", str(locustfile), "--headless", "--host", host]
    command += ["--html", str(folder / "report.html"), "--csv", str(folder / "load"), "--csv-full-history"]
    os.execv(sys.executable, [*command, "--only-summary", *arguments, "--host", host])


def _silent(host: str) -> str | None:
    """Why there is no Pharos to be heard; None when there is."""
    url = urlsplit(host)
    if url.scheme not in ("http", "https") or not url.hostname:
        return "this is no address; it begins with http:// or https://"
    connect = HTTPSConnection if url.scheme == "https" else HTTPConnection
    connection = connect(url.hostname, url.port, timeout=CHECK_SECONDS)
    try:
        connection.request("GET", url.path.rstrip("/") + "/healthz")
        status = connection.getresponse().status
    except (OSError, HTTPException) as exc:
        return str(exc) or type(exc).__name__
    finally:
        connection.close()
    return None if status == 200 else f"GET /healthz is answered with {status}"


def _is_loopback(host: str) -> bool:
    name = urlsplit(host).hostname or ""
    if name == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


if __name__ == "__main__":
    main(sys.argv[1:])
