"""Hook of mkdocs.yml: the tutorial notebook as a page, and links to files outside docs/.

Such links work where pages are read in the repository; the site holds docs/ only, so it shows the file's path, and
a file that is not there ends the build.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
OUTSIDE = re.compile(r"!?\[([^\]]*)\]\((\.\./[^)#\s]+)\)")


def on_files(files: Any, config: Any) -> Any:
    """Put a page made from the notebook in its place."""
    notebook = files.get_file_from_path("tutorial.ipynb")
    files.remove(notebook)
    files.append(File.generated(config, "tutorial.md", content=to_markdown(ROOT / "docs" / "tutorial.ipynb")))
    return files


def to_markdown(notebook: Path) -> str:
    """A notebook's text and code, without outputs."""
    parts = []
    for cell in json.loads(notebook.read_text())["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
    return "\n\n".join(parts) + "\n"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links to the notebook at its page, and show the path of files outside docs/.

    Raises:
        FileNotFoundError: a page links to a file that is not there.
    """

    def show(match: re.Match[str]) -> str:
        path = ROOT / "docs" / match[2]
        if not path.exists():
            raise FileNotFoundError(f"docs/{page.file.src_uri} links to {match[2]}, which does not exist")
        return f"{match[1]} (`{path.resolve().relative_to(ROOT.resolve()).as_posix()}`)"

    return OUTSIDE.sub(show, markdown.replace("](tutorial.ipynb)", "](tutorial.md)"))
