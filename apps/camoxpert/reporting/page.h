// The parts of a report page that are the same for all: style and the script that sorts the table. Nothing is loaded
// from elsewhere.
#pragma once

namespace camo::app {

inline constexpr const char* kPageStyle = R"css(
:root { color-scheme: light dark; --ink: #1d2328; --dim: #66707a; --rule: #d8dde2; --paper: #fff; --tint: #f3f5f7;
  --a: #1467a8; --b: #c2571a; --good: #2b7a3d; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8eb; --dim: #98a2ab; --rule: #3a424a; --paper: #16191c;
  --tint: #1f2429; --a: #6db3ea; --b: #f0965b; --good: #7fcf92; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1240px; padding: 28px 24px 60px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 25px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 38px 0 12px; }
p.about { color: var(--dim); margin: 0; overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(118px, 1fr)); gap: 10px; margin-top: 20px; }
.tile { background: var(--tint); border-radius: 8px; padding: 10px 12px; }
.tile b { display: block; font-size: 21px; font-variant-numeric: tabular-nums; } .tile span { color: var(--dim); font-size: 13px; }
.tile.main b { color: var(--a); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(360px, 1fr)); gap: 16px; }
svg { width: 100%; height: auto; background: var(--tint); border-radius: 8px; font-size: 11px; }
svg text { fill: var(--ink); } svg .title { font-size: 13px; font-weight: 600; } svg .tick, svg .label { fill: var(--dim); }
svg .grid { stroke: var(--rule); stroke-width: .7; } svg .bar { fill: var(--a); }
svg .line0, svg .line1 { fill: none; stroke: var(--a); stroke-width: 2; } svg .line1 { stroke: var(--b); }
.wide { overflow-x: auto; } .tall { max-height: 560px; overflow: auto; border: 1px solid var(--rule); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-size: 12.5px; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 6px; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.tall th { position: sticky; top: 0; background: var(--tint); cursor: pointer; user-select: none; }
th[aria-sort=ascending]::after { content: " \25B2"; } th[aria-sort=descending]::after { content: " \25BC"; }
td.share { background: linear-gradient(90deg, color-mix(in srgb, var(--a) 28%, transparent) var(--part), transparent var(--part)); }
figure { margin: 0 0 18px; } figcaption { font-size: 13px; color: var(--dim); margin-bottom: 5px; overflow-wrap: anywhere; }
figcaption b { color: var(--ink); }
.panels { display: grid; grid-template-columns: repeat(4, 1fr); gap: 6px; }
.panels img { width: 100%; display: block; border-radius: 4px; background: var(--tint); }
.key { color: var(--dim); font-size: 13px; } .key i { display: inline-block; width: 11px; height: 11px; border: 1px solid var(--dim);
  margin: 0 4px 0 12px; vertical-align: -1px; }
ul.left { color: var(--b); font-size: 13px; overflow-wrap: anywhere; }
)css";

inline constexpr const char* kSortScript = R"js(
const head = document.querySelectorAll('#pictures th'), body = document.querySelector('#pictures tbody');
head.forEach((cell, column) => cell.addEventListener('click', () => {
  const down = cell.getAttribute('aria-sort') === 'ascending';
  head.forEach(other => other.removeAttribute('aria-sort'));
  cell.setAttribute('aria-sort', down ? 'descending' : 'ascending');
  const value = row => column ? Number(row.cells[column].textContent) : row.cells[0].textContent;
  const rows = [...body.rows].map(row => [value(row), row]);
  rows.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0) * (down ? -1 : 1));
  body.append(...rows.map(([, row]) => row));
}));
)js";

}  // namespace camo::app
