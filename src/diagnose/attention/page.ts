import { taylorDegrees, taylorError, taylorRange } from "../../models/index.ts";
import { escapeMarkup } from "../../printable.ts";
import type { AttentionReport, HeadDiagnosis } from "./report.ts";

const ink = "#1c2b22";
const colours = { 2: "#2f7d4f", 4: "#7a5ea8" } as const;

function svg(width: number, height: number, title: string, body: string): string {
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" font-family="system-ui, sans-serif" font-size="11" fill="${ink}"><title>${escapeMarkup(title)}</title><rect width="100%" height="100%" fill="#fff"/>${body}</svg>\n`;
}

/** Heads as a map: a row a layer, a column a head, darker where the bound on its scores is larger; framed: polynomial. */
export function drawHeads({ model, heads, weightError }: AttentionReport): string {
  const [left, top, cell] = [60, 62, 26];
  const layers = Math.max(...heads.map(({ layer }) => layer)) + 1;
  const across = Math.max(...heads.map(({ head }) => head)) + 1;
  const shade = (bound: number): number => Math.min(1, Math.max(0, Math.log10(bound / 0.1) / 3)); // 0.1 to 100
  const cells = heads.map(({ layer, head, bound, verdict }) => {
    const dark = Math.round(250 - 190 * shade(bound));
    const frame = verdict.kind === "polynomial" ? ` stroke="${colours[verdict.degree]}" stroke-width="2.5"` : "";
    const [x, y] = [left + head * cell, top + layer * cell];
    return `<rect x="${x}" y="${y}" width="${cell - 2}" height="${cell - 2}" fill="rgb(${dark},${Math.min(255, dark + 8)},${dark})"${frame}><title>layer ${layer}, head ${head}: R = ${bound.toPrecision(3)}</title></rect><text x="${x + (cell - 2) / 2}" y="${y + 16}" text-anchor="middle" font-size="8.5" fill="${shade(bound) > 0.55 ? "#fff" : ink}">${short(bound)}</text>`;
  });
  const rows = Array.from(
    { length: layers },
    (_, layer) => `<text x="${left - 8}" y="${top + layer * cell + 16}" text-anchor="end">${layer}</text>`,
  );
  const columns = Array.from(
    { length: across },
    (_, head) => `<text x="${left + head * cell + 12}" y="${top - 6}" text-anchor="middle">${head}</text>`,
  );
  const limits = taylorDegrees.map(
    (degree) =>
      `<tspan fill="${colours[degree]}">degree ${degree}: R ≤ ${taylorRange(degree, weightError).toFixed(2)}</tspan>`,
  );
  return svg(
    Math.max(left + across * cell + 20, 470),
    top + layers * cell + 16,
    `Bound on the scores of each head of ${model}`,
    `<text x="8" y="18" font-weight="600">Bound R on |score|, a row a layer, a column a head</text><text x="8" y="36">framed: polynomial. Certified to ${(100 * weightError).toFixed(0)} % where ${limits.join(", ")}</text>${columns.join("")}${rows.join("")}${cells.join("")}`,
  );
}

/** Every head by its bound and the error measured, at each degree, with the certificate drawn. */
export function drawDegrees({ model, heads, weightError }: AttentionReport): string {
  const [left, top, width, height] = [58, 44, 520, 260];
  const [fromR, toR, fromE, toE] = [0.05, 500, 1e-6, 10];
  const x = (r: number): number =>
    left + (width * Math.log(Math.min(toR, Math.max(fromR, r)) / fromR)) / Math.log(toR / fromR);
  const y = (e: number): number =>
    top + height * (1 - Math.log(Math.min(toE, Math.max(fromE, e)) / fromE) / Math.log(toE / fromE));
  const grid = [0.1, 1, 10, 100].map(
    (r) =>
      `<line x1="${x(r)}" x2="${x(r)}" y1="${top}" y2="${top + height}" stroke="#e4ebe6"/><text x="${x(r)}" y="${top + height + 15}" text-anchor="middle">${r}</text>`,
  );
  const lines = [1e-6, 1e-4, 1e-2, 1].map(
    (e) =>
      `<line x1="${left}" x2="${left + width}" y1="${y(e)}" y2="${y(e)}" stroke="#e4ebe6"/><text x="${left - 6}" y="${y(e) + 4}" text-anchor="end">${e}</text>`,
  );
  const drawn = taylorDegrees.map((degree) => {
    const dots = heads.map(({ bound, layer, head, degrees }) => {
      const of = degrees.find((one) => one.degree === degree);
      const error = of?.sampled.max ?? Number.NaN;
      return `<circle cx="${x(bound).toFixed(1)}" cy="${y(error).toFixed(1)}" r="2.6" fill="${colours[degree]}" fill-opacity="0.65"><title>layer ${layer}, head ${head}, degree ${degree}: R = ${bound.toPrecision(3)}, error ${error.toPrecision(2)}</title></circle>`;
    });
    const curve = Array.from({ length: 80 }, (_, i) => fromR * (10 / fromR) ** (i / 79))
      .map((r) => `${x(r).toFixed(1)},${y(taylorError(degree, -r, r)).toFixed(1)}`)
      .join(" ");
    const limit = x(taylorRange(degree, weightError));
    return `<polyline points="${curve}" fill="none" stroke="${colours[degree]}" stroke-dasharray="4 3"/><line x1="${limit}" x2="${limit}" y1="${top}" y2="${top + height}" stroke="${colours[degree]}" stroke-width="1.5"/>${dots.join("")}`;
  });
  return svg(
    left + width + 20,
    top + height + 40,
    `Bound on the scores of ${model} against the error measured`,
    `<text x="8" y="18" font-weight="600">Error of outputs by the bound on scores</text><text x="8" y="34"><tspan fill="${colours[2]}">● degree 2</tspan> <tspan fill="${colours[4]}">● degree 4</tspan>: largest of sampled queries; dashed: bound on weights; upright: certified to its left</text>${grid.join("")}${lines.join("")}${drawn.join("")}<text x="${left + width / 2}" y="${top + height + 32}" text-anchor="middle">R, the bound on |score|</text>`,
  );
}

/** The report as a page that stands alone. */
export function attentionPage(report: AttentionReport): string {
  const { model, adapter, texts, length, threshold, weightError, sampledError, heads, qualified, keyHeads } = report;
  const rows = heads.map((head) => {
    const { layer, head: h, gamma, range, bound, scores, degrees, verdict, growth } = head;
    const cells = degrees.map(
      ({ weightError: certified, sampled, cost }) =>
        `<td>${percent(certified)}</td><td>${percent(sampled.mean)} / ${percent(sampled.max)}</td><td>${cost.toFixed(2)}×</td>`,
    );
    return `<tr${verdict.kind === "polynomial" ? ' class="found"' : ""}><td>${layer}.${h}</td><td>${short(gamma.query)} · ${short(gamma.key)}</td><td>${short(range.plain)}</td><td>${short(range.centred)}</td><td>${short(bound)}</td><td>${[scores.p50, scores.p90, scores.p99, scores.max].map(short).join(" / ")}</td>${cells.join("")}<td>${growth === undefined ? "–" : `${growth.toFixed(2)}×`}</td><td>${sayVerdict(head)}</td></tr>`;
  });
  const decided =
    sampledError === undefined
      ? ""
      : ` A sampled error of up to ${percent(sampledError)} was allowed to decide as well; it is measured, not certified.`;
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Attention of ${escapeMarkup(model)}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: ${ink}; max-width: 80rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-size: 13px; }
th, td { text-align: right; padding: 0.2rem 0.6rem; border-bottom: 1px solid #dde5df; }
th:first-child, td:first-child, td:last-child { text-align: left; }
tr.found td { background: #eef6f0; }
.wide { overflow-x: auto; }
</style>
</head>
<body>
<h1>Which heads could be near-linear</h1>
<p><b>${escapeMarkup(model)}</b>${adapter === undefined ? "" : ` with <b>${escapeMarkup(adapter)}</b>`}, ${texts} text${texts === 1 ? "" : "s"} of ${length} tokens.</p>
<p><b>${sayQualified(qualified, keyHeads)}</b></p>
<p>A head qualifies where no weight of its attention is off by more than ${percent(weightError)}, by a bound that holds for every
token looked at, and where it is reckoned to be faster at this length.${decided} √(ln ${length}) = ${threshold.toFixed(2)} is how the
theorem's threshold on Γ grows with the length; it has no constant, so it is no pass mark. What counts is R against the errors.</p>
<div class="wide">${drawHeads(report)}</div>
<div class="wide">${drawDegrees(report)}</div>
<h2>Heads</h2>
<div class="wide"><table>
<thead><tr><th rowspan="2">layer.head</th><th rowspan="2">Γ of queries · keys</th><th colspan="3">R: bound on |score|</th><th rowspan="2">|score| 50 / 90 / 99 % / largest</th>${taylorDegrees.map((degree) => `<th colspan="3">degree ${degree}: weights certified, outputs sampled (mean / largest), time</th>`).join("")}<th rowspan="2">R with the adapter</th><th rowspan="2">verdict</th></tr>
<tr><th>plain</th><th>centred</th><th>taken</th>${taylorDegrees.map(() => "<th></th><th></th><th></th>").join("")}</tr></thead>
<tbody>
${rows.join("\n")}
</tbody>
</table></div>
</body>
</html>
`;
}

/** How many key heads qualify, in a sentence. */
export function sayQualified(qualified: number, keyHeads: number): string {
  return qualified === 0
    ? "No head qualifies: exact attention is the right choice for this model."
    : `${qualified} of ${keyHeads} key heads qualify.`;
}

function sayVerdict({ verdict }: HeadDiagnosis): string {
  return verdict.kind === "polynomial"
    ? `polynomial of degree ${verdict.degree}, by ${verdict.by}`
    : `exact: ${escapeMarkup(verdict.why)}`;
}

function short(value: number): string {
  return value >= 100 ? value.toFixed(0) : value.toPrecision(2);
}

function percent(share: number): string {
  if (!Number.isFinite(share)) return "∞";
  const value = 100 * share;
  return `${value >= 1000 ? value.toExponential(0) : value >= 10 ? value.toFixed(0) : value.toPrecision(2)} %`;
}
