"""Write the dashboards' JSON files."""

from __future__ import annotations

from monitoring.dashboards import FOLDER, files

FOLDER.mkdir(parents=True, exist_ok=True)
for name, text in files().items():
    (FOLDER / name).write_text(text)
    print(FOLDER / name)
