"""Charts as PNG, for where SVG does not show: what `roofline_svg` draws, through Pillow and the font that it brings.

Only the elements of our own charts are known: rectangles, lines, circles and text. Needs the extra `png`.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree as ET

from rlx.errors import MissingExtra, UsageError

#: Pixels of the picture, and of the canvas that is then made smaller so that edges are smooth, for one of the chart.
_SCALE, _FINE = 2, 4
_SVG = "{http://www.w3.org/2000/svg}"
#: Pillow's names for where text hangs.
_ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}


def pillow() -> ModuleType:
    """The package. Raises MissingExtra where it is not installed."""
    try:
        import PIL.Image
        import PIL.ImageDraw
        import PIL.ImageFont
    except ModuleNotFoundError:
        raise MissingExtra(
            "drawing a .png file needs the package 'pillow', which is not installed",
            hint="pip install 'rlx[png]', or draw an .svg file",
        ) from None
    return PIL


def write_png(file: Path, chart: str) -> None:
    """Draw a chart, given as SVG text, into a file. Raises MissingExtra; UsageError where it cannot be
    written, or is named as a file of another kind.
    """
    if file.suffix.lower() != ".png":
        raise UsageError(f"{str(file)!r} is named as another kind of file", hint="name it .png")
    pil, root = pillow(), ET.fromstring(chart)
    width, height = (int(size) for size in root.attrib["viewBox"].split()[2:])
    canvas = pil.Image.new("RGBA", (width * _FINE, height * _FINE), "white")
    font = pil.ImageFont.load_default(size=int(root.attrib["font-size"]) * _FINE)
    for element in root:
        layer = pil.Image.new("RGBA", canvas.size, (255, 255, 255, 0)) if element.tag == f"{_SVG}circle" else canvas
        _draw(pil.ImageDraw.Draw(layer), element, font)
        if layer is not canvas:  # circles let through what lies under them
            canvas.alpha_composite(layer)
    picture = canvas.convert("RGB").resize((width * _SCALE, height * _SCALE), pil.Image.Resampling.LANCZOS)
    try:
        picture.save(file, format="PNG")
    except OSError as error:
        raise UsageError(f"{str(file)!r} cannot be written: {error.strerror or error}") from None


def _draw(draw, element: ET.Element, font) -> None:  # Pillow's, which may not be there
    given = element.attrib

    def at(*names: str) -> list[float]:
        return [float(given[name]) * _FINE for name in names]

    match element.tag.removeprefix(_SVG):
        case "line":
            draw.line(at("x1", "y1", "x2", "y2"), fill=given["stroke"], width=_FINE)
        case "text":
            draw.text(
                at("x", "y"), element.text or "", fill=given["fill"], font=font, anchor=_ANCHORS[given["text-anchor"]]
            )
        case "circle":
            (x, y, radius), inside = at("cx", "cy", "r"), round(255 * float(given["fill-opacity"]))
            box = [x - radius, y - radius, x + radius, y + radius]
            draw.ellipse(box, fill=f"{given['fill']}{inside:02x}", outline=given["stroke"], width=_FINE)
        case "rect":
            draw.rectangle([(0, 0), draw.im.size], fill=given["fill"])  # the background, as large as the chart
        case other:
            raise ValueError(f"a chart with a <{other}>")
