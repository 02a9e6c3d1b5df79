"""The limits of panels, out of monitoring/thresholds.py: orange from the first number on, red from the second."""

from __future__ import annotations

from monitoring import thresholds as at
from monitoring.dashboards.panels import Limit

SATURATION = Limit(at.SATURATION_HIGH, at.SATURATION_FULL)
BURN = Limit(at.BURN_RATE_SLOW, at.BURN_RATE_FAST)
FIRST_TOKEN = Limit(at.TTFT_SLO_SECONDS, 2 * at.TTFT_SLO_SECONDS)
ANSWER = Limit(at.ANSWER_SECONDS_SLOW, at.ANSWER_SECONDS_BAD)
INTER_TOKEN = Limit(at.INTER_TOKEN_SECONDS_SLOW, at.INTER_TOKEN_SECONDS_BAD)
STAGE = Limit(at.STAGE_SECONDS_SLOW, at.STAGE_SECONDS_BAD)
LAG = Limit(at.EVENT_LOOP_LAG_SECONDS / 2, at.EVENT_LOOP_LAG_SECONDS)
PAUSE = Limit(at.PAUSE_SECONDS, 2 * at.PAUSE_SECONDS)
SOME = Limit(0.001, 1)
"""For what should never be: any at all is orange."""
