"""A self-contained HTML page: style, figures and plotly.js are part of it.

All text is escaped here. The content security policy of the page forbids any request.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"
)
_STYLE = """
body { margin: 0; background: #fff; color: #222; font: 15px/1.5 system-ui, -apple-system,
  "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1100px; margin: 0 auto; padding: 24px 20px 40px; box-sizing: border-box; }
h1 { font-size: 26px; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 36px 0 0; overflow-wrap: anywhere; }
p { margin: 4px 0 8px; color: #555; max-width: 80ch; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(160px, 1fr)); gap: 12px;
  margin: 20px 0 0; }
.tile { border: 1px solid #ddd; border-radius: 6px; padding: 10px 14px; }
.tile b { display: block; font-size: 25px; font-weight: 600; line-height: 1.3; }
.tile span { color: #555; font-size: 13px; display: block; line-height: 1.4; }
.plot { margin: 8px 0 0; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(340px, 1fr)); gap: 0 32px;
  align-items: start; }
.wide { overflow-x: auto; }
.scrolls { overflow-y: auto; max-height: 560px; width: max-content; max-width: 100%;
  padding-right: 16px; }
.scrolls thead th { position: sticky; top: 0; background: #fff; }
table { border-collapse: collapse; font-size: 13px; margin: 12px 0 0; }
th, td { padding: 4px 9px; text-align: left; vertical-align: top; border-bottom: 1px solid #e6e6e6;
  overflow-wrap: anywhere; }
thead th { white-space: nowrap; border-bottom: 2px solid #999; vertical-align: bottom; }
th { font-weight: 600; }
.numbers th, .numbers td { padding: 4px 7px; }
.numbers td { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.numbers thead th + th { text-align: right; white-space: normal; overflow-wrap: normal; }
.numbers small { display: block; color: #666; font-size: 11px; line-height: 1.2; }
.numbers tbody th { white-space: nowrap; padding-right: 16px; }
.numbers .group th { padding-top: 14px; font-size: 14px; }
footer { margin-top: 44px; border-top: 1px solid #ddd; padding-top: 8px; font-size: 13px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px; margin: 8px 0; }
dt { font-weight: 600; } dd { margin: 0; color: #444; }
"""
_DRAW = """
for (const source of document.querySelectorAll('script[type="application/json"]')) {
  const figure = JSON.parse(source.textContent);
  Plotly.newPlot(source.previousElementSibling, figure.data, figure.layout,
    {responsive: true, displaylogo: false, displayModeBar: "hover",
     modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]]});
}
"""


class Tile(NamedTuple):
    """A headline number with its title and a note."""

    title: str
    value: str
    note: str = ""


class Page:
    """A page; parts are added from top to bottom, and ``html`` returns the whole.

    Args:
        title: title of the page.
        note: line below the title.
    """

    def __init__(self, title: str, note: str) -> None:
        self.title = title
        self._parts = [f"<header><h1>{escape(title)}</h1><p>{escape(note)}</p></header>"]

    def section(self, title: str, note: str = "") -> None:
        """Begin a section."""
        self._parts.append(f"<h2>{escape(title)}</h2>")
        if note:
            self.note(note)

    def note(self, text: str) -> None:
        """Add a line of text."""
        self._parts.append(f"<p>{escape(text)}</p>")

    def tiles(self, tiles: Sequence[Tile]) -> None:
        """Add a row of tiles."""
        boxes = "".join(
            f'<div class="tile"><span>{escape(t.title)}</span><b>{escape(t.value)}</b>'
            f"<span>{escape(t.note)}</span></div>"
            for t in tiles
        )
        self._parts.append(f'<div class="tiles">{boxes}</div>')

    def figure(self, figure: Any) -> None:
        """Add a plotly figure; plotly escapes ``<`` in its JSON."""
        height = int(figure.layout.height)
        self._parts.append(
            f'<div class="plot" style="height:{height}px"></div>'
            f'<script type="application/json">{figure.to_json()}</script>'
        )

    def pairs(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Add a table of names and values, in two columns."""
        rows = [f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in pairs]
        half = (len(rows) + 1) // 2
        tables = "".join(
            f"<table><tbody>{''.join(part)}</tbody></table>" for part in (rows[:half], rows[half:])
        )
        self._parts.append(f'<div class="two">{tables}</div>')

    def numbers(
        self,
        columns: Sequence[str],
        groups: Sequence[tuple[str, Sequence[tuple[str, Sequence[tuple[str, str]]]]]],
        scrolls: bool = False,
    ) -> None:
        """Add a table of numbers.

        Args:
            columns: headings, the first for the names of the rows.
            groups: title, which may be empty, and rows of each group. A row is a name, and for
                each other column a value and a small text below it.
            scrolls: whether a long table scrolls inside a box.
        """
        head = "".join(f"<th>{escape(column)}</th>" for column in columns)
        body = []
        for title, rows in groups:
            if title:
                head_of_group = f'<th colspan="{len(columns)}">{escape(title)}</th>'
                body.append(f'<tr class="group">{head_of_group}</tr>')
            for name, cells in rows:
                numbers = "".join(
                    f"<td>{escape(value)}<small>{escape(small)}</small></td>"
                    for value, small in cells
                )
                body.append(f"<tr><th>{escape(name)}</th>{numbers}</tr>")
        box = "wide scrolls" if scrolls else "wide"
        self._parts.append(
            f'<div class="{box}"><table class="numbers"><thead><tr>{head}</tr></thead>'
            f"<tbody>{''.join(body)}</tbody></table></div>"
        )

    def glossary(self, terms: Sequence[tuple[str, str]], more: Sequence[str]) -> None:
        """Add the footer: definitions of terms, and pages of the documentation."""
        entries = "".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in terms)
        pages = ", ".join(f"<code>{escape(page)}</code>" for page in more)
        self._parts.append(f"<footer><dl>{entries}</dl><p>More: {pages}</p></footer>")

    def html(self) -> str:
        """Return the page as HTML."""
        from plotly.offline import get_plotlyjs

        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
            f"<title>{escape(self.title)}</title><style>{_STYLE}</style></head>\n"
            f"<body><main>\n{chr(10).join(self._parts)}\n</main>\n"
            f"<script>{get_plotlyjs()}</script>\n<script>{_DRAW}</script></body></html>\n"
        )
