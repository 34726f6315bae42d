"""Looks of reports: the style sheet, and the colours of pictures that go with it.

Series colours are those of Okabe and Ito (jfly.uni-koeln.de/color), which people with any kind of
colour vision tell apart; ramps are of one hue, from the paper's colour to the ink's.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Theme:
    """Colours of a picture.

    Attributes:
        paper: Background.
        ink: Text and axes.
        faint: Lesser text.
        grid: Lines behind the data.
        series: Lines and bars, in order.
        ramp: From few to many.
    """

    paper: str
    ink: str
    faint: str
    grid: str
    series: tuple[str, ...]
    ramp: tuple[str, ...]


LIGHT = Theme(
    paper="#ffffff",
    ink="#1f2328",
    faint="#59636e",
    grid="#dfe3e8",
    series=("#0072b2", "#d55e00", "#009e73", "#a8558a", "#b07d00"),
    ramp=("#e4eff8", "#8fc1e3", "#3d8dc4", "#0b5a93", "#07294a"),
)
DARK = Theme(
    paper="#14181d",
    ink="#e6e9ed",
    faint="#a0a9b4",
    grid="#2e353e",
    series=("#56b4e9", "#f08a3c", "#2fc79b", "#e09ac2", "#e8c14d"),
    ramp=("#1f3448", "#2a6593", "#479fd6", "#9fd3f5", "#f2faff"),
)

CSS = f"""
:root {{ color-scheme: light dark; --paper: {LIGHT.paper}; --ink: {LIGHT.ink};
  --faint: {LIGHT.faint}; --line: {LIGHT.grid}; --soft: #f5f7f9; --link: #0b5a93;
  --good: #0a6b47; --notice: #0b5a93; --warning: #9a3d00; --mark: #ffe3b8; }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ --paper: {DARK.paper};
  --ink: {DARK.ink}; --faint: {DARK.faint}; --line: {DARK.grid}; --soft: #1c2229;
  --link: {DARK.series[0]}; --good: {DARK.series[2]}; --notice: {DARK.series[0]};
  --warning: #ffa868; --mark: #6b4100; }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; padding: 1.5rem; max-width: 70rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }}
h1 {{ margin: 0; font-size: 1.7rem; line-height: 1.25; overflow-wrap: anywhere; }}
h2 {{ margin: 2.5rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--line);
  font-size: 1.3rem; }}
header p, footer {{ margin: .3rem 0; color: var(--faint); overflow-wrap: anywhere; }}
footer {{ margin-top: 3rem; border-top: 1px solid var(--line); padding-top: .75rem; }}
a {{ color: var(--link); }}
p {{ max-width: 50rem; }}
.badge {{ max-width: none; margin: .75rem 0; padding: .5rem .75rem; border: 1px solid;
  border-left-width: .4rem; border-radius: .25rem; background: var(--soft); }}
.badge b {{ margin-right: .4rem; font-size: 1.1rem; letter-spacing: .06em; }}
header p.good, .findings .good b {{ color: var(--good); }}
header p.notice, .findings .notice b {{ color: var(--notice); }}
header p.warning, .findings .warning b {{ color: var(--warning); }}
nav ul {{ display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: 1rem 0; padding: 0;
  list-style: none; }}
.findings {{ margin: 0; padding: 0; list-style: none; }}
.findings li {{ margin: .35rem 0; padding-left: 4.6rem; text-indent: -4.6rem;
  overflow-wrap: anywhere; }}
.findings b {{ display: inline-block; width: 4.6rem; text-indent: 0; }}
figure {{ margin: 1.25rem 0 1.75rem; }}
img {{ max-width: 100%; height: auto; display: block; }}
figcaption {{ margin: .4rem 0; max-width: 50rem; color: var(--faint); font-size: .94rem; }}
.wide {{ margin: 1rem 0; overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }}
caption {{ padding: .2rem 0; text-align: left; color: var(--faint); }}
th, td {{ padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; overflow-wrap: break-word; }}
th {{ background: var(--soft); }}
.number {{ text-align: right; white-space: nowrap; }}
mark {{ padding: 0 .25rem; border-radius: .2rem; background: var(--mark); color: var(--ink); }}
summary {{ cursor: pointer; color: var(--link); font-size: .94rem; }}
@media print {{ body {{ max-width: none; padding: 0; font-size: 10.5pt; }} nav {{ display: none; }}
  details:not([open]) {{ display: none; }} .wide {{ overflow: visible; }} h2, caption {{
  break-after: avoid; }} figure, tr, .badge {{ break-inside: avoid; }} }}
"""
