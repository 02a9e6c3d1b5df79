"""GET /: where a visitor finds everything else."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Pharos</title>
<style>
  body { font: 16px/1.6 system-ui, sans-serif; max-width: 42rem; margin: 4rem auto; padding: 0 1rem; }
  pre { background: #f4f4f4; padding: 1rem; overflow-x: auto; }
</style>
<h1>Pharos</h1>
<p>Answers questions over your own documents, and shows where every millisecond went.</p>
<ul>
  <li><a href="docs">API</a>: try <code>POST /ask</code> from the browser</li>
  <li><a href="v1/models">Models</a>: for OpenAI's clients, with <code>ORIGIN/v1</code> as the base URL</li>
  <li><a href="topics">Topics</a>: what is loaded</li>
  <li><a href="readyz">Readiness</a> and <a href="metrics">metrics</a></li>
</ul>
<pre>curl -N ORIGIN/ask -H 'content-type: application/json' \\
  -d '{"question": "When will the comet found by Hendrik Uirab be nearest to us?", "stream": true}'</pre>
<script>
  for (const code of document.querySelectorAll("pre, code"))
    code.textContent = code.textContent.replace("ORIGIN", location.origin);
</script>
</html>
"""


def router() -> APIRouter:
    """The page."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/", response_class=HTMLResponse)
    async def landing() -> str:
        return PAGE

    return routes
