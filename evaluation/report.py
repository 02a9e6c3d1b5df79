"""One HTML page for a run: its figures, what changed since the last one, plots, and the questions to look at."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from evaluation import plots
from evaluation.comparing import differing, gain
from evaluation.refusing import ANSWERABLE, UNANSWERABLE, curve
from evaluation.runs import Run, title, when
from evaluation.significance import Difference

MAIN = {"retrieval": "ndcg@10", "answers": "f1", "answerability": ANSWERABLE, "ablation": "ndcg@10"}
"""Kind of run → the figure that runs are compared by."""

AMOUNTS = ("seconds", "prompt_tokens")
"""What the names of figures begin with that are no share: not drawn beside those that are, and less is better."""
LESS_IS_BETTER = (*AMOUNTS, UNANSWERABLE, "refused_answerable", "citation_out_of_range", "repeats")
SHOWN_QUESTIONS = 15
TEXT_CHARS = 240


def write(run: Run, before: Sequence[Run], folder: Path) -> Path:
    """`report.html` in `folder`. `before` are earlier runs on the same questions, newest first; the last one of the
    same setup is compared in full, else the last one."""
    path = folder / "report.html"
    path.write_text(rendered(run, before), encoding="utf-8")
    return path


def rendered(run: Run, before: Sequence[Run]) -> str:
    """The page. Every text is escaped: questions and passages are other people's."""
    main = MAIN[run.setup["kind"]]
    if not run.column(main):
        main = next(iter(run.means))
    last = next((other for other in before if other.setup == run.setup), before[0] if before else None)
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return templates.get_template("report.html.jinja").render(
        title=title(run),
        kind=run.setup["kind"],
        when=when(run),
        run=run,
        last=last,
        last_title=last and title(last),
        last_when=last and when(last),
        last_differing=last and differing(last, run),
        figures=[_figure(run, last, name) for name in run.means],
        images=_images(run, before, last, main),
        main=main,
        others=[row for row in (_other(run, other, main) for other in before) if row],
        questions=[*_changed(run, last, main), _worst(run, main)],
        facts=[*run.setup.items(), *run.facts.items()],
    )


def _figure(run: Run, last: Run | None, name: str) -> dict[str, Any]:
    values = run.column(name)
    row: dict[str, Any] = {"name": name, "questions": len(values), "mean": run.means[name], "gain": None}
    gained = gain(last, run, name) if last else None
    if last and gained:
        row |= {"before": last.means[name], "gain": gained, "verdict": _verdict(gained, name)}
    return row


def _other(run: Run, other: Run, main: str) -> dict[str, Any] | None:
    gained = gain(other, run, main)
    if gained is None:
        return None
    return {
        "title": title(other),
        "when": when(other),
        "differing": differing(other, run),
        "before": other.means[main],
        "gain": gained,
        "verdict": _verdict(gained, main),
    }


def _verdict(gained: Difference, name: str) -> str:
    if not gained.significant:
        return ""
    return "better" if (gained.mean > 0) != name.startswith(LESS_IS_BETTER) else "worse"


def _images(run: Run, before: Sequence[Run], last: Run | None, main: str) -> list[dict[str, str]]:
    names = [name for name in run.means if not name.startswith(AMOUNTS)]
    shown = [run, *([last] if last else [])]
    shown += [other for other in before if other is not last][:2]
    drawn = {"means of each run": plots.bars(shown, names)}
    drawn[f"spread of {main}"] = plots.spread(list(run.column(main).values()), main)
    if run.setup["kind"] == "answerability":
        wrong, right, _ = curve(run.column(ANSWERABLE), run.column(UNANSWERABLE))
        drawn["the curve of refusals"] = plots.refusals(wrong.tolist(), right.tolist())
    if last:
        old, new = last.column(main), run.column(main)
        both = old.keys() & new.keys()
        if both:
            drawn[f"gains in {main}"] = plots.gains([new[id] - old[id] for id in both], f"gain in {main}")
    return [{"what": what, "data": base64.b64encode(png).decode()} for what, png in drawn.items()]


def _changed(run: Run, last: Run | None, main: str) -> list[dict[str, Any]]:
    """The questions that lost most since the last run."""
    if last is None:
        return []
    old, new = last.column(main), run.column(main)
    losses = sorted((new[id] - old[id], id) for id in old.keys() & new.keys())
    rows = [
        [f"{old[id]:.2f} → {new[id]:.2f}", *_texts(run.found.get(id, {}))]
        for loss, id in losses[:SHOWN_QUESTIONS]
        if loss < 0
    ]
    return [{"title": "Lost most", "columns": [main, "question", "found"], "rows": rows}] if rows else []


def _worst(run: Run, main: str) -> dict[str, Any]:
    worst = sorted((value, id) for id, value in run.column(main).items())[:SHOWN_QUESTIONS]
    rows = [[f"{value:.2f}", *_texts(run.found.get(id, {}))] for value, id in worst]
    return {"title": "Lowest", "columns": [main, "question", "found"], "rows": rows}


def _texts(found: Mapping[str, Any]) -> list[str]:
    """The question, and what was found: documents by rank, or the answer and the gold ones."""
    if "answer" in found:
        gold = " | ".join(found.get("gold") or ()) or "–"
        return [str(found.get("question", "")), f"{found['answer'][:TEXT_CHARS]} (gold: {gold[:TEXT_CHARS]})"]
    return [str(found.get("question", "")), ", ".join(found.get("documents", ())[:5])]
