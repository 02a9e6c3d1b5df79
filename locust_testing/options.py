"""What can be set of a load test, beside Locust's own options."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from locust.argument_parser import LocustArgumentParser

from locust_testing import exporter, questions
from locust_testing.shapes import SHAPES
from locust_testing.thresholds import ABOUT, Thresholds

USERS = 5
"""The fewest with one of each kind; a model on two cores has its hands full with them."""


def add_options(parser: LocustArgumentParser) -> None:
    """Locust's event `init_command_line_parser`. Each can be set in the environment too, as PHAROS_LOAD_…"""

    def option(name: str, default: Any, about: str, **more: Any) -> None:
        environment = f"PHAROS_LOAD_{name.removeprefix('--').upper().replace('-', '_')}"
        parser.add_argument(name, default=default, env_var=environment, help=f"{about} (default {default})", **more)

    shapes = "; ".join(f"{name}: {shape.about}" for name, shape in SHAPES.items())
    option("--shape", "steady", f"how many users when. {shapes}", choices=list(SHAPES))
    option("--think-seconds", 1.0, "mean pause of a user between answer and question", type=float)
    option("--max-tokens", 64, "longest answer to ask for, in tokens", type=int)
    option("--skew", questions.SKEW, "exponent of the Zipf distribution over the topics", type=float)
    option("--silence-seconds", 120.0, "longest wait for the next piece of an answer", type=float)
    option("--metrics-host", exporter.HOST, "address of the Prometheus endpoint; Docker's bridge for a contained one")
    option("--metrics-port", exporter.PORT, "its port; 0: none", type=int)
    option("--api-key", "", "sent as a bearer token", is_secret=True)
    for field in fields(Thresholds):
        option("--" + field.name.replace("_", "-"), float(field.default), ABOUT[field.name], type=float)  # type: ignore[arg-type]


def thresholds(options: Any) -> Thresholds:
    """From the options."""
    return Thresholds(**{field.name: getattr(options, field.name) for field in fields(Thresholds)})
