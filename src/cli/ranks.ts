import type { ModuleRank } from "../index.ts";
import { escapeMarkup } from "../printable.ts";
import { svgPage } from "./svg.ts";

const [left, top, cell] = [150, 60, 26];

/** What is left of every module's rank, layer by layer, in an SVG document: the fuller a cell, the darker. */
export function drawRanks(title: string, ranks: readonly ModuleRank[]): string {
  const place = (module: string): readonly [string, string] => {
    const [, before = "", layer = "", after = ""] = /^(.*?)(?:^|\.)(\d+)(.*)$/.exec(module) ?? [];
    return layer === "" ? ["", module] : [layer, after.replace(/^\./, "") || before];
  };
  const layers = [...new Set(ranks.map(({ module }) => place(module)[0]))];
  const kinds = [...new Set(ranks.map(({ module }) => place(module)[1]))];
  const cells = ranks.map(({ module, rank, of }) => {
    const [layer, kind] = place(module);
    const [x, y] = [left + layers.indexOf(layer) * cell, top + kinds.indexOf(kind) * cell];
    const share = of === 0 ? 0 : rank / of;
    return [
      `<rect x="${x}" y="${y}" width="${cell - 2}" height="${cell - 2}" fill="#2f7d4f" fill-opacity="${(0.06 + 0.94 * share).toFixed(2)}"><title>${escapeMarkup(module)}: ${rank} of ${of}</title></rect>`,
      `<text x="${x + cell / 2 - 1}" y="${y + cell / 2 + 3}" text-anchor="middle" fill="${share > 0.5 ? "#fff" : "#1c2b22"}">${rank}</text>`,
    ].join("");
  });
  const total = ranks.reduce((sum, { rank }) => sum + rank, 0);
  const [width, bottom] = [left + layers.length * cell + 24, top + kinds.length * cell];
  return svgPage(title, { width: Math.max(width, 460), height: bottom + 34 }, [
    ...layers.map(
      (layer, i) =>
        `<text x="${left + i * cell + cell / 2 - 1}" y="${top - 8}" text-anchor="middle">${escapeMarkup(layer)}</text>`,
    ),
    ...kinds.map(
      (kind, i) =>
        `<text x="${left - 8}" y="${top + i * cell + cell / 2 + 3}" text-anchor="end">${escapeMarkup(kind)}</text>`,
    ),
    ...cells,
    `<text x="16" y="${bottom + 20}">layers from left to right; ${total} in all, ${(total / Math.max(1, ranks.length)).toFixed(2)} a matrix</text>`,
  ]);
}
