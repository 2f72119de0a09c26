"""The page's style sheet."""

CSS = """
:root {
  --ink: #0f172a; --soft: #475569; --line: #e2e8f0; --pale: #f8fafc;
  --ppo: #0b62a4; --sft: #94a3b8; --good: #15803d; --bad: #b91c1c;
  --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  --mono: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); font: 15px/1.5 var(--sans); }
main { max-width: 1160px; margin: 0 auto; padding: 28px 24px 60px; }
.name { color: var(--soft); margin: 0; }
h1 { font-size: 27px; line-height: 1.25; margin: 2px 0 18px; max-width: 32em; }
h2 { font-size: 19px; margin: 40px 0 6px; padding-top: 14px; border-top: 1px solid var(--line); }
h3 { font-size: 15px; margin: 22px 0 6px; }
p.note { color: var(--soft); margin: 2px 0 12px; max-width: 60em; }

.tiles { display: grid; gap: 12px; margin: 0 0 18px; }
.tiles { grid-template-columns: repeat(auto-fill, minmax(228px, 1fr)); }
.tile { border: 1px solid var(--line); border-radius: 8px; padding: 10px 14px; }
.tile { background: var(--pale); }
.tile .what, .tile .more { color: var(--soft); font-size: 13px; }
.tile .value { font-size: 22px; font-weight: 650; white-space: nowrap; }
.good { color: var(--good); }
.bad { color: var(--bad); }

.warning, .missing { border-left: 4px solid; border-radius: 4px; padding: 9px 14px; }
.warning, .missing { margin: 8px 0; }
.warning { background: #fff7ed; border-color: #ea580c; }
.warning.over_optimisation, .warning.gate { background: #fef2f2; border-color: var(--bad); }
.missing { background: var(--pale); border-color: var(--sft); }
.missing ul { margin: 4px 0; padding-left: 20px; }
header ~ .tiles { margin-top: 16px; }

.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 8px 0 14px; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 5px 11px; white-space: nowrap; }
th { font-weight: 600; color: var(--soft); font-size: 13px; border-bottom: 2px solid var(--line); }
td { border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
table.words td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
table.words td:first-child { white-space: nowrap; vertical-align: top; }

.two { display: grid; grid-template-columns: minmax(0, 1.45fr) minmax(0, 1fr); gap: 30px; }
.plots { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 20px 26px; }
figure { margin: 0; display: flex; flex-direction: column; }
figure svg { margin-top: auto; }
figure.wide { max-width: 940px; margin-top: 22px; }
figcaption { font-size: 14px; font-weight: 600; margin-bottom: 4px; }
figcaption span { display: block; font-weight: 400; font-size: 12.5px; color: var(--soft); }
svg { width: 100%; height: auto; display: block; }
svg text { font-family: var(--sans) !important; }

.judge { margin: 8px 0 12px; }
.bar { display: flex; height: 26px; border-radius: 5px; overflow: hidden; margin: 4px 0; }
.bar div { text-align: center; overflow: hidden; white-space: nowrap; }
.bar div { font-size: 12.5px; line-height: 26px; }
.bar .w { background: var(--ppo); color: #fff; }
.bar .t { background: #e2e8f0; }
.bar .l { background: var(--sft); }

.sample { border: 1px solid var(--line); border-radius: 8px; margin: 10px 0; overflow: hidden; }
.sample .prompt { background: var(--pale); border-bottom: 1px solid var(--line); }
.sample .prompt, .answer { padding: 8px 14px; min-width: 0; }
.pair { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); }
.answer + .answer { border-left: 1px solid var(--line); }
.who { font-size: 12.5px; color: var(--soft); display: flex; gap: 12px; flex-wrap: wrap; }
.who b { color: var(--ink); }
.best .who b::after { content: " better"; color: var(--good); font-weight: 600; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; max-height: 260px; overflow-y: auto; }
.text { font: 13.5px/1.45 var(--mono); }
.text:empty::before { content: "(empty)"; color: var(--soft); }

details { margin: 10px 0; border: 1px solid var(--line); border-radius: 8px; padding: 8px 14px; }
summary { cursor: pointer; font-weight: 600; }
pre { overflow-x: auto; font: 12.5px/1.45 var(--mono); }
@media (max-width: 860px) { .plots, .two { grid-template-columns: minmax(0, 1fr); } }
@media print { details { break-inside: avoid; } .text { max-height: none; } }
""".strip()
