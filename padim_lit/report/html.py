"""One HTML file from a report's content: styles, scripts, data and pictures all inside it."""

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

#: In this order; each is a plain script.
SCRIPTS = ("charts.js", "tables.js", "report.js")
TITLE = "PaDiM with random projections: what was measured"


def render(content: Mapping[str, Any]) -> str:
    """The page. `content` has no NaN; its texts reach the page as text, never as markup.

    A content security policy admits these scripts alone, by their hashes, and no connection.
    """
    names = dict.fromkeys(sweep["data"] for sweep in content["sweeps"])
    return assemble(
        asset("template.html"),
        asset("report.css"),
        [asset(name) for name in SCRIPTS],
        content,
        title=html.escape(f"{TITLE} on {', '.join(names)}"),
        heading=html.escape(TITLE),
    )


def assemble(
    template: str, style: str, scripts: Sequence[str], content: Mapping[str, Any], **parts: str
) -> str:
    """One file from a template with {{names}}, and the policy that admits nothing else.

    Args:
        content: becomes JSON in a script element; has no NaN.
        parts: further names of the template, as markup: escape what comes from outside.
    """
    hashes = " ".join(f"'{_hash(script)}'" for script in scripts)
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src {hashes}; "
        "base-uri 'none'; form-action 'none'"
    )
    parts |= {
        "policy": policy,
        "style": style,
        "content": to_script(content),
        "scripts": "\n".join(f"<script>{script}</script>" for script in scripts),
    }
    # In one pass: what is put in is not searched again.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def to_script(content: Any) -> str:
    """JSON that can lie inside a script element: no "<", hence no tag that ends it.

    Raises:
        ValueError: a number is not finite.
    """
    return json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def asset(name: str) -> str:
    """A file of report/assets, such as a script that another page uses too."""
    return files("padim_lit.report").joinpath("assets", name).read_text(encoding="utf-8")
