"""Hook of mkdocs.yml: the tutorial notebook as a page, links to files outside docs/, nothing loaded from the network.

Such links work where pages are read in the repository; the site holds docs/ only, so it shows the file's path, and
a file that is not there ends the build.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File
from mkdocs.utils import get_relative_url

SHIM = re.compile(r"https://[^\"]*/iframe-worker/shim")
ROOT = Path(__file__).parent.parent
OUTSIDE = re.compile(r"!?\[([^\]]*)\]\((\.\./[^)#\s]+)\)")


def on_config(config: Any) -> Any:
    """Put every page that the menu does not list into its last section, and leave an empty one out."""
    docs = ROOT / "docs"
    pages = [path.relative_to(docs).as_posix() for path in sorted(docs.rglob("*.md"))]
    listed = json.dumps(config.nav)
    (last,) = config.nav[-1].values()
    last.extend(page for page in pages if f'"{page}"' not in listed)
    if not last:
        config.nav.pop()
    return config


def on_files(files: Any, config: Any) -> Any:
    """Put a page made from the notebook in its place."""
    notebook = files.get_file_from_path("tutorial.ipynb")
    files.remove(notebook)
    files.append(File.generated(config, "tutorial.md", content=to_markdown(ROOT / "docs" / "tutorial.ipynb")))
    return files


def to_markdown(notebook: Path) -> str:
    """A notebook's text, code, and what the code printed and drew."""
    parts = []
    for cell in json.loads(notebook.read_text())["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            if "text" in output:
                parts.append(f"```text\n{''.join(output['text']).rstrip()}\n```")
            if picture := output.get("data", {}).get("image/png"):
                parts.append(
                    f'<img alt="What the cell above draws" src="data:image/png;base64,{"".join(picture).strip()}">'
                )
    return "\n\n".join(parts) + "\n"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links to the notebook at its page, and show the path of files outside docs/.

    Raises:
        FileNotFoundError: a page links to a file that is not there.
    """

    def show(match: re.Match[str]) -> str:
        path = (ROOT / "docs" / page.file.src_uri).parent.joinpath(match[2]).resolve()
        if path.is_relative_to(ROOT.resolve() / "docs"):
            return match[0]  # a page of the site: mkdocs checks it
        if not path.exists():
            raise FileNotFoundError(f"docs/{page.file.src_uri} links to {match[2]}, which does not exist")
        return f"{match[1]} (`{path.relative_to(ROOT.resolve()).as_posix()}`)"

    return OUTSIDE.sub(show, markdown.replace("tutorial.ipynb)", "tutorial.md)"))


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Nothing is loaded from elsewhere: the theme's script for search from the disk is one of ours."""
    return SHIM.sub(get_relative_url("assets/search_from_disk.js", page.url), output)


def on_post_template(output: str, **_: Any) -> str:
    """The same for 404.html, whose addresses start at the server's root."""
    return SHIM.sub("/assets/search_from_disk.js", output)
