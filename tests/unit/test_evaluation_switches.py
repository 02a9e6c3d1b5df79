"""Switches, the turns in which they are asked, and the table of what they did."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from app.ranking.options import RankingOptions
from app.routes.ask import AskBody
from app.routes.questions import QuestionBody
from app.routes.search import SearchBody
from app.settings import Settings
from evaluation import switches
from evaluation.ablation_table import rendered, waited
from evaluation.ranking import repeats
from evaluation.runs import Run
from evaluation.sets import Question, evenly
from evaluation.switches import NOTHING, SWITCHES, SwitchError, Way, all_off, merged
from evaluation.turns import in_turns, waits


def test_every_switch_is_something_that_a_request_may_say() -> None:
    for name in SWITCHES:
        one = switches.chosen(name)
        body: type[QuestionBody] = SearchBody if one.switch.changes == "ranking" else AskBody
        for way in (all_off(), one.on()):
            body.model_validate({"question": "Who?", **way.fields})
        assert one.switch.settings.keys() <= Settings.model_fields.keys()


def test_a_switch_is_on_while_the_others_are_off() -> None:
    wanted = [switches.chosen(name) for name in ("rerank", "mmr=0.5", "cache")]
    rerank, mmr, cache = wanted
    off = all_off()
    assert off.headers == {"Cache-Control": "no-store"}
    assert rerank.on() == Way({**off.fields, "rerank": True}, off.headers)
    assert mmr.on() == Way(merged(off.fields, {"ranking": {"mmr_lambda": 0.5}}), off.headers)
    assert cache.on() == Way(off.fields, {"Cache-Control": None})
    assert switches.chosen(NOTHING).on() == off
    assert switches.settings_of(wanted).keys() == cache.switch.settings.keys()
    assert merged({"ranking": {"min_score": 0.1}}, {"ranking": {"mmr_lambda": 0.5}}) == {
        "ranking": {"min_score": 0.1, "mmr_lambda": 0.5}
    }


def test_off_is_off_whatever_the_gateway_is_configured_to_do() -> None:
    configured = {
        "min_score": 0.5,
        "half_life_days": 30,
        "duplicates_above": 0.5,
        "mmr_lambda": 0.5,
        "join_neighbours": True,
        "parent_tokens": 100,
        "prompt_order": "ends",
    }
    body = AskBody.model_validate({"question": "Who?", **all_off().fields})
    assert RankingOptions.model_validate(configured).overridden(body.ranking) == RankingOptions()
    assert (body.self_query, body.rerank, body.expand) == (False, False, "off")


def test_values_are_json_or_words() -> None:
    assert switches.chosen("mode=sparse").switch.on == "sparse"
    assert switches.chosen("half_life=90").switch.on == 90
    assert switches.chosen("join=false").switch.on is False
    for wrong in ("nosuch", "nothing=1", ""):
        with pytest.raises(SwitchError, match="there are nothing, min_score"):
            switches.chosen(wrong)


def test_by_default_only_what_needs_nothing() -> None:
    names = switches.by_default()
    assert {"mmr", "parents"} <= set(names)
    assert not {"rerank", "hyde", "multi_query", "cache"} & set(names)


@dataclass(frozen=True)
class _Said:
    seconds: float


def test_ways_are_asked_in_turns_a_wave_at_a_time() -> None:
    log: list[str] = []

    def way(name: str) -> Callable[[str], Awaitable[_Said]]:
        async def ask(text: str) -> _Said:
            log.append(name + text)
            await asyncio.sleep(0)
            return _Said(len(log))

        return ask

    questions = [Question(str(number), str(number)) for number in range(5)]
    said = asyncio.run(in_turns({"a": way("a"), "b": way("b")}, questions, 2))
    assert log == ["a0", "a1", "b0", "b1", "b2", "b3", "a2", "a3", "a4", "b4"]
    assert {name: list(answers) for name, answers in said.items()} == {
        "a": list("01234"),
        "b": ["0", "1", "2", "3", "4"],
    }
    log.clear()
    # One question at a time: the answers to "1" come fourth and third in the first round, later in the others.
    seconds = asyncio.run(waits({"a": way("a"), "b": way("b")}, questions, 1, 3))
    assert (seconds["a"]["1"], seconds["b"]["1"]) == (4, 3)


def test_evenly_takes_from_everywhere() -> None:
    questions = [Question(str(number), "") for number in range(10)]
    assert [question.id for question in evenly(questions, 4)] == ["0", "2", "5", "7"]
    assert evenly(questions, None) == evenly(questions, 99) == tuple(questions)


def test_repeats_are_counted_by_what_came_before() -> None:
    text = "the comet will be nearest to us on the nineteenth of January"
    assert repeats([text, "something else altogether, of other words", text.upper(), text]) == 0.5
    assert repeats([]) == repeats(["", ""]) == 0


def test_the_table_has_gains_and_added_milliseconds() -> None:
    def run(switch: str, values: list[float], seconds: float) -> Run:
        figures = {
            str(number): {"ndcg@10": value, "mrr@10": 1.0, waited(8): seconds + number / 1000}
            for number, value in enumerate(values)
        }
        return Run(switch, {"switch": switch}, {}, figures)

    off = run("off", [0.0] * 8, 0.1)
    table = rendered(off, [run("better", [1.0] * 8, 0.15), run("nothing", [0.0] * 8, 0.1)])
    assert table.splitlines() == [
        "| switch | ndcg@10 | mrr@10 | added ms, 8 at once |",
        "| --- | --- | --- | --- |",
        "| off | 0.000 | 1.000 | of 104, 106 |",
        "| better | **1.000 (+1.000, p 0.008)** | same | +50.0, +50.0 |",
        "| nothing | same | same | +0.0, +0.0 |",
    ]
