"""One HTML file from a template: styles, scripts, figures and pictures all inside it."""

import base64
import hashlib
import json
import re
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from padim_lit.system.atomic import file_bytes
from padim_lit.visualization import palette


def assemble(room: str, *scripts: str, **content: Any) -> str:
    """Fill the template ROOM.html with its styles, its scripts and what all pages have.

    Every text of `content` is escaped unless it is Markup. A content security policy admits these
    scripts alone, by their hash, and no connection.
    """
    environment = Environment(
        loader=FunctionLoader(asset), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    style = palette.css() + "".join(asset(f"{one}/{one}.css") for one in sorted({"report", room}))
    script = asset("report/page.js") + "".join(asset(f"{room}/{name}") for name in scripts)
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src '{_hash(script)}'; base-uri 'none'; form-action 'none'"
    )
    return environment.get_template(f"{room}/{room}.html").render(
        policy=policy, style=Markup(style), script=Markup(script), **content
    )


def asset(name: str) -> str:
    """Return the text of ROOM/NAME in padim_lit/ROOM/assets."""
    room, _, name = name.partition("/")
    return files(f"padim_lit.{room}").joinpath("assets", name).read_text(encoding="utf-8")


def to_script(content: Any) -> Markup:
    """Return JSON for a script element: it holds no "<", hence no tag that could end it.

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))


def inline(svg: bytes, description: str) -> Markup:
    """Return matplotlib's SVG as a part of the page."""
    text = svg.decode()
    text = text[text.index("<svg ") :]
    used = set(re.findall(r"#([\w.-]+)", text))  # others would be there twice on a page
    text = re.sub(r' id="([\w.-]+)"', lambda found: found[0] if found[1] in used else "", text)
    label = Markup(' role="img" aria-label="{}"').format(description)
    return Markup(text.replace("<svg", f"<svg{label}", 1))


def jpeg(image: Image.Image, quality: int) -> str:
    """Return a picture as a data URI."""
    # Not optimize=True: Pillow's buffer for that is too small for noisy pictures.
    content = file_bytes(image.save, "JPEG", quality=quality, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
