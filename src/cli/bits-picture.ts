import { escapeMarkup } from "../printable.ts";
import { svgPage } from "./svg.ts";

const [left, top, cell, tall] = [64, 64, 74, 26];
const colours = ["#f2efe4", "#d9ead3", "#9ccfa4", "#5aa56f", "#2f7d4f", "#1d5a37", "#134428", "#0b2f1b", "#06200f"];

/** A matrix and its planes. */
export interface MatrixBits {
  /** The module, with its layer's number in it. */
  readonly module: string;
  readonly bits: number;
}

/** Planes of every matrix, a row a layer and a column a kind of module: an SVG document. */
export function drawBits(title: string, matrices: readonly MatrixBits[]): string {
  const { layers, kinds, at } = arrange(matrices);
  const cells = layers.flatMap((layer, y) =>
    kinds.map((kind, x) => {
      const bits = at(layer, kind);
      if (bits === undefined) return "";
      const [px, py] = [left + x * cell, top + y * tall];
      const dark = bits >= 3;
      return `<rect x="${px}" y="${py}" width="${cell - 2}" height="${tall - 2}" rx="3" fill="${colours[bits] ?? "#000"}"><title>layer ${layer}, ${escapeMarkup(kind)}: ${bits} bits</title></rect><text x="${px + cell / 2}" y="${py + 16}" text-anchor="middle" fill="${dark ? "#fff" : "#1c2b22"}">${bits}</text>`;
    }),
  );
  const width = Math.max(left + kinds.length * cell + 24, 420);
  return svgPage(title, { width: width, height: top + layers.length * tall + 24 }, [
    ...kinds.map(
      (kind, x) =>
        `<text x="${left + x * cell + cell / 2}" y="${top - 10}" text-anchor="middle">${escapeMarkup(kind)}</text>`,
    ),
    ...layers.map((layer, y) => `<text x="${left - 10}" y="${top + y * tall + 16}" text-anchor="end">${layer}</text>`),
    ...cells,
  ]);
}

/** The same as lines of text. */
export function bitsTable(matrices: readonly MatrixBits[]): readonly string[] {
  const { layers, kinds, at } = arrange(matrices);
  const widths = kinds.map((kind) => Math.max(kind.length, 2));
  const line = (first: string, cells: readonly string[]): string =>
    `${first.padStart(5)}  ${cells.map((text, i) => text.padStart(widths[i] ?? 2)).join("  ")}`;
  return [
    line("layer", kinds),
    ...layers.map((layer) =>
      line(
        layer,
        kinds.map((kind) => String(at(layer, kind) ?? "")),
      ),
    ),
  ];
}

function arrange(matrices: readonly MatrixBits[]): {
  readonly layers: readonly string[];
  readonly kinds: readonly string[];
  readonly at: (layer: string, kind: string) => number | undefined;
} {
  const placed = matrices.map(({ module, bits }) => {
    const parts = module.split(".");
    const number = parts.findIndex((part) => /^\d+$/.test(part));
    return { layer: parts[number] ?? "", kind: parts.at(-1) ?? module, path: parts.slice(number + 1).join("."), bits };
  });
  // Modules of one name in different places of a layer (c_proj in GPT-2) are told apart by their path.
  const clash = new Set(
    placed
      .filter((a) => placed.some((b) => a.layer === b.layer && a.kind === b.kind && a !== b))
      .map(({ kind }) => kind),
  );
  const named = placed.map((entry) => ({ ...entry, kind: clash.has(entry.kind) ? entry.path : entry.kind }));
  return {
    layers: [...new Set(named.map(({ layer }) => layer))],
    kinds: [...new Set(named.map(({ kind }) => kind))],
    at: (layer, kind) => named.find((entry) => entry.layer === layer && entry.kind === kind)?.bits,
  };
}
