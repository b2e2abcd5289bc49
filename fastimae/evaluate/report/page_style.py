"""The style sheet of HTML pages: light and dark, on wide screens and on phones."""

CSS = """
:root {
  color-scheme: light dark;
  --paper: #fbfaf8; --card: #ffffff; --ink: #1c1e21; --soft: #666b73; --rule: #e3e1dc;
  --c0: #2563a8; --c1: #d1622b; --c2: #2b8a4b; --c3: #8a4fb0; --c4: #b8860b; --c5: #0f8b8d;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15171a; --card: #1d2024; --ink: #e7e6e3; --soft: #9aa0a8; --rule: #32363c;
    --c0: #6fa8e8; --c1: #f0935f; --c2: #6cc48a; --c3: #c296e0; --c4: #e0b650; --c5: #5fc7c9;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 72rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 1rem; padding-top: .9rem;
     border-top: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
p { margin: .4rem 0; max-width: 46rem; }
.soft { color: var(--soft); }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1rem; margin-top: .75rem; font-size: .9rem; }
nav a { color: var(--c0); text-decoration: none; white-space: nowrap; }
nav a:hover { text-decoration: underline; }
.cards { display: grid; gap: .75rem; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr));
         margin: 1rem 0; padding: 0; list-style: none; }
.cards li, .chart, .picture { background: var(--card); border: 1px solid var(--rule);
                              border-radius: .6rem; }
.cards li { padding: .7rem .9rem; }
.cards b { display: block; font-size: 1.35rem; font-weight: 600; line-height: 1.25;
           font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.cards span { color: var(--soft); font-size: .82rem; }
.charts { display: grid; gap: 1rem;
          grid-template-columns: repeat(auto-fill, minmax(min(26rem, 100%), 1fr)); }
figure { margin: 0; }
.chart { padding: .8rem 1rem; }
figcaption { font-size: .9rem; font-weight: 600; margin-bottom: .4rem; overflow-wrap: anywhere; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font-size: 12px; font-variant-numeric: tabular-nums; }
svg .grid { stroke: var(--rule); stroke-width: 1; }
svg polyline { fill: none; stroke-width: 2; stroke-linejoin: round; }
.keys { display: flex; flex-wrap: wrap; gap: .2rem 1rem; list-style: none; margin: .5rem 0 0;
        padding: 0; font-size: .82rem; color: var(--soft); }
.keys b { color: var(--ink); font-weight: 600; font-variant-numeric: tabular-nums; }
.keys span { display: inline-block; width: .8rem; height: .8rem; border-radius: 50%;
             margin-right: .35rem; vertical-align: -.08rem; background: var(--line); }
svg polyline { stroke: var(--line); }
svg circle { fill: var(--line); }
.c0 { --line: var(--c0); } .c1 { --line: var(--c1); } .c2 { --line: var(--c2); }
.c3 { --line: var(--c3); } .c4 { --line: var(--c4); } .c5 { --line: var(--c5); }
.picture { padding: .6rem; margin: .75rem 0; overflow-x: auto; }
.picture img { display: block; max-width: 100%; height: auto; background: #fff;
               border-radius: .3rem; cursor: zoom-in; }
.picture img.full { max-width: none; cursor: zoom-out; }
.scroll { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .9rem .3rem 0; text-align: right; white-space: nowrap;
         border-bottom: 1px solid var(--rule); }
th { color: var(--soft); font-weight: 500; }
th:first-child, td:first-child, .text { text-align: left; }
details { margin: .75rem 0; }
summary { cursor: pointer; color: var(--soft); font-size: .9rem; }
footer { margin-top: 3rem; color: var(--soft); font-size: .82rem; }
@media print { nav { display: none; } body { max-width: none; } }
"""
