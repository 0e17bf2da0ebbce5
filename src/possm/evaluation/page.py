"""The little HTML that a report needs. All text that comes in plain goes out escaped."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any


def page(title: str, body: Sequence[str]) -> str:
    """A whole page that holds no script and may fetch nothing; the pieces of its body are HTML."""
    return PAGE.format(title=escape(title), style=STYLE, body="\n".join(body))


def image(png: bytes, name: str, note: str) -> str:
    """A figure with its caption, the picture inside the page."""
    data = b64encode(png).decode("ascii")
    return (
        f'<figure><img alt="{escape(name)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(note)}</figcaption></figure>"
    )


def table(head: Sequence[str], body: Sequence[Sequence[str]], *, classes: Mapping[int, str]) -> str:
    """An HTML table of plain text; `classes` by column: ``n`` sets numbers to the right, ``w`` wraps."""

    def line(kind: str, row: Sequence[str]) -> str:
        align = [f' class="{classes[column]}"' if column in classes else "" for column in range(len(row))]
        cells = [f"<{kind}{a}>{escape(text)}</{kind}>" for a, text in zip(align, row, strict=True)]
        return f"<tr>{''.join(cells)}</tr>"

    rows = "".join(line("td", row) for row in body)
    return f'<div class="wide"><table><thead>{line("th", head)}</thead><tbody>{rows}</tbody></table></div>'


def facts(values: Mapping[str, Any]) -> str:
    """Names and what they stand for; what is nested is shown as JSON."""
    return f"<dl>{''.join(_fact(name, value) for name, value in values.items())}</dl>"


def _fact(name: str, value: Any) -> str:
    if isinstance(value, (Mapping, list, tuple)):
        text = json.dumps(value, indent=1, default=str, ensure_ascii=False)
        return f"<dt>{escape(str(name))}</dt><dd><pre>{escape(text)}</pre></dd>"
    return f"<dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd>"


STYLE = """
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "Liberation Sans", sans-serif; color: #222;
  background: #fff; max-width: 1000px; margin: 2rem auto 4rem; padding: 0 1.2rem; }
h1 { font-size: 1.5rem; margin: 0 0 1rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
.headline { border-left: 4px solid #0072B2; background: #f4f8fb; padding: .7rem 1.1rem; margin: 0 0 1rem; }
.headline p { margin: .3rem 0; } .number { font-size: 2rem; font-weight: 650; line-height: 1.2; }
.number small { font-size: 1.1rem; font-weight: 400; color: #555; } sup { line-height: 0; font-size: .65em; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .88rem; }
th, td { text-align: left; padding: .28rem 1.1rem .28rem 0; border-bottom: 1px solid #e4e4e4;
  white-space: nowrap; }
th { border-bottom: 2px solid #bbb; font-weight: 600; } th.n, td.n { text-align: right; }
td.w { white-space: normal; min-width: 9rem; }
table, .number { font-variant-numeric: tabular-nums; }
figure { margin: .8rem 0 1.8rem; break-inside: avoid; } img { width: 100%; height: auto; }
figcaption, .note { color: #555; font-size: .88rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.2rem; font-size: .88rem; }
dt { color: #555; } dd { margin: 0; overflow-wrap: anywhere; } pre { margin: 0; white-space: pre-wrap; }
"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""
