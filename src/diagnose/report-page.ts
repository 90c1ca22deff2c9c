import { escapeMarkup } from "../printable.ts";
import { drawCounts, drawSimilarity, drawSpectrum } from "./pictures.ts";
import type { DiagnosisReport, DiagnosisWarning, MatrixDiagnosis } from "./report.ts";

/** Matrices whose pictures are shown; all are in the table. */
const shown = 16;

/** The matrices to draw: those with most intruders, then those whose vectors turned most. */
export function remarkable(matrices: readonly MatrixDiagnosis[], count: number = shown): readonly MatrixDiagnosis[] {
  const turned = ({ maxCos }: MatrixDiagnosis): number => Math.min(...maxCos);
  return [...matrices].sort((a, b) => b.intruders.length - a.intruders.length || turned(a) - turned(b)).slice(0, count);
}

/** What a warning says, in a sentence. */
export function sayWarning({ code, matrices, level, detail }: DiagnosisWarning): string {
  const count = matrices.length === 1 ? "1 matrix" : `${matrices.length} matrices`;
  const sentences: Readonly<Record<DiagnosisWarning["code"], string>> = {
    "chance-level": `In ${count} a random direction reaches a cosine of about ${level?.toFixed(2)} by chance, so eps tells little there: choose eps above it.`,
    "near-ties": `In ${count} an intruder's singular value is within ${level} of a neighbour's: a turn among the two may be all there is.`,
    "precision-differs": `The files hold different types (${detail}): roundings pass for an update.`,
  };
  return sentences[code];
}

/** The report as a page that stands alone: numbers, table and pictures in one file. */
export function reportPage(report: DiagnosisReport): string {
  const { base, tuned, k, eps, side, total, perMatrix, fractionWithIntruder, matrices, warnings } = report;
  const methods = [...new Set(matrices.map(({ method }) => method))]
    .map((method) => `${matrices.filter((matrix) => matrix.method === method).length} ${method}`)
    .join(", ");
  const rows = matrices.map(
    ({ name, shape, method, intruders, nearTies, maxCos, sigma, sigmaBase, update, gap }) =>
      `<tr${intruders.length > 0 ? ' class="found"' : ""}><td>${escapeMarkup(name)}</td><td>${shape.join(" × ")}</td><td>${intruders.length === 0 ? "–" : intruders.map((j) => `${j + 1}${nearTies.includes(j) ? "*" : ""}`).join(", ")}</td><td>${Math.min(...maxCos).toFixed(3)}</td><td>${number(sigmaBase[0])} → ${number(sigma[0])}</td><td>${number(update.spectral)}</td><td>${number(update.toGap)}</td><td>${number(update.effectiveRank)}</td><td>${number(gap)}</td><td>${method}</td></tr>`,
  );
  const pictures = remarkable(matrices).map(
    (matrix) => `<figure>${drawSimilarity(matrix)}${drawSpectrum(matrix)}</figure>`,
  );
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>What tuning did: ${escapeMarkup(tuned)}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2b22; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-size: 13px; }
th, td { text-align: right; padding: 0.2rem 0.6rem; border-bottom: 1px solid #dde5df; }
th:first-child, td:first-child { text-align: left; }
tr.found td { background: #fbf1ec; }
figure { display: inline-flex; gap: 0.5rem; margin: 0.5rem; border: 1px solid #dde5df; border-radius: 6px; padding: 0.5rem; }
.wide { overflow-x: auto; }
</style>
</head>
<body>
<h1>What tuning did to the weights</h1>
<p><b>${escapeMarkup(tuned)}</b> against <b>${escapeMarkup(base)}</b>.</p>
<p><b>${total} intruders</b> in ${matrices.length} matrices (${perMatrix.toFixed(2)} a matrix; ${(100 * fractionWithIntruder).toFixed(0)} % have one):
of the ${k} leading ${side} singular vectors of each tuned matrix, those whose absolute cosine with every ${side} singular
vector of the base is below ${eps}. Looked at: ${methods}. Base weights: <code>${report.baseHash.slice(0, 16)}</code>.</p>
${warnings.map((warning) => `<p>⚠ ${escapeMarkup(sayWarning(warning))}</p>`).join("\n")}
<div class="wide">${drawCounts(report)}</div>
<h2>Matrices</h2>
<div class="wide"><table>
<thead><tr><th>matrix</th><th>size</th><th>intruders at</th><th>least cosine</th><th>σ₁</th><th>‖ΔW‖</th><th>‖ΔW‖ / gap</th><th>effective rank of ΔW</th><th>gap</th><th>method</th></tr></thead>
<tbody>
${rows.join("\n")}
</tbody>
</table></div>
<p>‖ΔW‖ is the largest singular value of the update, the gap the smallest distance between neighbouring leading singular
values of the base. * marks intruders whose singular value is almost that of a neighbour.</p>
<h2>Pictures${matrices.length > shown ? ` of ${shown} matrices` : ""}</h2>
${pictures.join("\n")}
</body>
</html>
`;
}

function number(value: number | null | undefined): string {
  if (value === null || value === undefined) return "–";
  return value === 0 ? "0" : value.toPrecision(3);
}
