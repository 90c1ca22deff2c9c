import { escapeMarkup } from "../printable.ts";
import type { DiagnosisReport, MatrixDiagnosis } from "./report.ts";

const ink = "#1c2b22";
const [before, after, flagged] = ["#8aa394", "#2f7d4f", "#b4532a"];

/** A drawing, and the room it takes. */
interface Drawing {
  readonly width: number;
  readonly height: number;
  readonly body: string;
}

function svg({ width, height, body }: Drawing, title: string): string {
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" font-family="system-ui, sans-serif" font-size="11" fill="${ink}"><title>${escapeMarkup(title)}</title><rect width="100%" height="100%" fill="#fff"/>${body}</svg>\n`;
}

/** How leading vectors after tuning (columns) lie among those before (rows): |U0ᵀU|, white 0 to dark 1. */
export function drawSimilarity(diagnosis: MatrixDiagnosis): string {
  return svg(similarity(diagnosis), `${diagnosis.name}: |U0ᵀU|`);
}

/** Leading singular values before and after tuning, intruders marked. */
export function drawSpectrum(diagnosis: MatrixDiagnosis): string {
  return svg(spectrum(diagnosis), `${diagnosis.name}: singular values`);
}

/** Similarity maps of several matrices. */
export function drawSimilarities(diagnoses: readonly MatrixDiagnosis[], title: string): string {
  return svg(gallery(diagnoses.map(similarity), title), title);
}

/** Spectra of several matrices. */
export function drawSpectra(diagnoses: readonly MatrixDiagnosis[], title: string): string {
  return svg(gallery(diagnoses.map(spectrum), title), title);
}

function similarity({ name, similarity: rows, intruders }: MatrixDiagnosis): Drawing {
  const [left, top, cell] = [34, 46, 16];
  const columns = rows[0]?.length ?? 0;
  const cells = rows.flatMap((row, i) =>
    row.map((value, j) => {
      const shade = Math.round(255 - 200 * Math.min(1, value));
      return `<rect x="${left + j * cell}" y="${top + i * cell}" width="${cell - 1}" height="${cell - 1}" fill="rgb(${shade},${Math.min(255, shade + 25)},${shade})"><title>${i + 1}, ${j + 1}: ${value.toFixed(3)}</title></rect>`;
    }),
  );
  const marks = intruders
    .filter((j) => j < columns)
    .map(
      (j) =>
        `<rect x="${left + j * cell - 1}" y="${top - 1}" width="${cell + 1}" height="${rows.length * cell + 1}" fill="none" stroke="${flagged}" stroke-width="1.5"/>`,
    );
  const numbers = (count: number, at: (i: number) => string): string =>
    Array.from({ length: count }, (_, i) => (i === 0 || i === count - 1 ? at(i) : "")).join("");
  return {
    width: Math.max(left + columns * cell + 16, 16 + 5.6 * short(name).length, intruders.length > 0 ? 236 : 0),
    height: top + rows.length * cell + 26,
    body: [
      `<text x="8" y="16" font-weight="600">${escapeMarkup(short(name))}</text>`,
      `<text x="8" y="31" font-size="10">base down, tuned across${intruders.length > 0 ? "; framed: intruders" : ""}</text>`,
      ...cells,
      ...marks,
      numbers(
        rows.length,
        (i) => `<text x="${left - 6}" y="${top + i * cell + 12}" text-anchor="end" font-size="10">${i + 1}</text>`,
      ),
      numbers(
        columns,
        (j) =>
          `<text x="${left + j * cell + cell / 2}" y="${top + rows.length * cell + 13}" text-anchor="middle" font-size="10">${j + 1}</text>`,
      ),
    ].join(""),
  };
}

function spectrum({ name, sigma, sigmaBase, intruders }: MatrixDiagnosis): Drawing {
  const [left, top, height] = [44, 46, 130];
  const count = Math.max(sigma.length, sigmaBase.length);
  const width = Math.max(150, 18 * count);
  const most = Math.max(...sigma, ...sigmaBase, 1e-30) * 1.05;
  const x = (i: number): string => (left + 8 + (i / Math.max(1, count - 1)) * (width - 16)).toFixed(1);
  const y = (value: number): string => (top + height * (1 - value / most)).toFixed(1);
  const line = (values: readonly number[], colour: string): string =>
    `<polyline points="${values.map((value, i) => `${x(i)},${y(value)}`).join(" ")}" fill="none" stroke="${colour}" stroke-width="1.5"/>`;
  const dots = (values: readonly number[], colour: (i: number) => string): string =>
    values
      .map(
        (value, i) =>
          `<circle cx="${x(i)}" cy="${y(value)}" r="3" fill="${colour(i)}"><title>${i + 1}: ${value.toPrecision(5)}</title></circle>`,
      )
      .join("");
  const marks = [0, 0.5, 1].map((share) => {
    const value = (most / 1.05) * share;
    return `<line x1="${left}" y1="${y(value)}" x2="${left + width}" y2="${y(value)}" stroke="#dde5df"/><text x="${left - 6}" y="${Number(y(value)) + 4}" text-anchor="end" font-size="10">${value.toPrecision(3)}</text>`;
  });
  return {
    width: Math.max(left + width + 16, 16 + 5.6 * short(name).length),
    height: top + height + 30,
    body: [
      `<text x="8" y="16" font-weight="600">${escapeMarkup(short(name))}</text>`,
      `<text x="8" y="31" font-size="10"><tspan fill="${before}">● base</tspan> <tspan fill="${after}">● tuned</tspan> <tspan fill="${flagged}">● intruder</tspan></text>`,
      ...marks,
      line(sigmaBase, before),
      dots(sigmaBase, () => before),
      line(sigma, after),
      dots(sigma, (i) => (intruders.includes(i) ? flagged : after)),
      `<text x="${left + width}" y="${top + height + 18}" text-anchor="end" font-size="10">singular values 1 to ${count}</text>`,
    ].join(""),
  };
}

function gallery(drawings: readonly Drawing[], title: string): Drawing {
  const across = Math.min(4, Math.max(1, drawings.length));
  const width = Math.max(0, ...drawings.map((drawing) => drawing.width)) + 8;
  const height = Math.max(0, ...drawings.map((drawing) => drawing.height)) + 8;
  const placed = drawings.map(
    ({ body }, i) =>
      `<g transform="translate(${(i % across) * width},${32 + Math.floor(i / across) * height})">${body}</g>`,
  );
  return {
    width: Math.max(across * width, 16 + 7.6 * title.length),
    height: 32 + Math.ceil(drawings.length / across) * height,
    body: `<text x="8" y="20" font-size="14" font-weight="600">${escapeMarkup(title)}</text>${placed.join("")}`,
  };
}

/** Intruders by layer and kind of matrix: one cell a matrix, its count in it. */
export function drawCounts({
  matrices,
  k,
  eps,
  total,
}: Pick<DiagnosisReport, "matrices" | "k" | "eps" | "total">): string {
  const placed = matrices.map((diagnosis) => ({ diagnosis, ...placeOf(diagnosis.name) }));
  const layers = [...new Set(placed.map(({ layer }) => layer))];
  const kinds = [...new Set(placed.map(({ kind }) => kind))];
  const title = `${total} intruders in ${matrices.length} matrices (k ${k}, eps ${eps})`;
  const labels = Math.max(60, ...kinds.map((kind) => 6.2 * kind.length)) + 16;
  const [top, cell] = [64, 24];
  const cells = placed.map(({ diagnosis, layer, kind }) => {
    const count = diagnosis.intruders.length;
    const [x, y] = [labels + layers.indexOf(layer) * cell, top + kinds.indexOf(kind) * cell];
    const share = count / Math.max(1, Math.min(k, diagnosis.sigma.length));
    const fill = count === 0 ? "#eef3ef" : `rgba(180,83,42,${(0.25 + 0.75 * share).toFixed(2)})`;
    return `<rect x="${x}" y="${y}" width="${cell - 2}" height="${cell - 2}" fill="${fill}"><title>${escapeMarkup(diagnosis.name)}: ${count}</title></rect><text x="${x + cell / 2 - 1}" y="${y + 15}" text-anchor="middle" fill="${share > 0.5 ? "#fff" : ink}">${count}</text>`;
  });
  const drawing: Drawing = {
    width: Math.max(labels + layers.length * cell + 16, 16 + 7.6 * title.length),
    height: top + kinds.length * cell + 20,
    body: [
      `<text x="8" y="20" font-size="14" font-weight="600">${escapeMarkup(title)}</text>`,
      `<text x="${labels}" y="40" font-size="10">layer</text>`,
      ...layers.map(
        (layer, i) =>
          `<text x="${labels + i * cell + cell / 2 - 1}" y="55" text-anchor="middle" font-size="10">${layer ?? ""}</text>`,
      ),
      ...kinds.map(
        (kind, i) =>
          `<text x="${labels - 8}" y="${top + i * cell + 15}" text-anchor="end">${escapeMarkup(kind)}</text>`,
      ),
      ...cells,
    ].join(""),
  };
  return svg(drawing, title);
}

/** `model.layers.3.self_attn.q_proj` is layer 3 and `self_attn.q_proj`. */
function placeOf(name: string): { readonly layer: number | undefined; readonly kind: string } {
  const [, layer, rest] = /(?:^|\.)(\d+)\.(.+)$/.exec(name) ?? [];
  return { layer: layer === undefined ? undefined : Number(layer), kind: rest ?? name };
}

/** Without what every module of a decoder starts with. */
function short(name: string): string {
  return name.replace(/^(?:model|transformer|gpt_neox|base_model)\./, "");
}
