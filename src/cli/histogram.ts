import type { DataReport } from "../index.ts";
import { count } from "./progress.ts";
import { svgPage } from "./svg.ts";

const [left, top, barWidth, height] = [56, 40, 26, 180];

/** Lengths of examples as bars, in an SVG document. */
export function drawLengths(title: string, { histogram, lengths }: DataReport): string {
  const tallest = Math.max(1, ...histogram.map((bar) => bar.count));
  const width = left + histogram.length * barWidth + 24;
  const parts = histogram.map((bar, i) => {
    const x = left + i * barWidth;
    const tall = (bar.count / tallest) * height;
    const label =
      i % 2 === 1 || histogram.length < 12
        ? `<text x="${x + barWidth}" y="${top + height + 16}" text-anchor="middle">${bar.upTo}</text>`
        : "";
    return `<rect x="${x + 1}" y="${(top + height - tall).toFixed(1)}" width="${barWidth - 2}" height="${tall.toFixed(1)}" fill="#2f7d4f"><title>up to ${bar.upTo} tokens: ${count(bar.count)}</title></rect>${label}`;
  });
  const { median, p95, longest } = lengths;
  const caption = `tokens in an example: median ${count(median)}, 95 % up to ${count(p95)}, longest ${count(longest)}`;
  return svgPage(title, { width: Math.max(width, 460), height: top + height + 52 }, [
    `<text x="${left - 6}" y="${top + 9}" text-anchor="end">${count(tallest)}</text>`,
    ...parts,
    `<line x1="${left}" y1="${top + height}" x2="${left + histogram.length * barWidth}" y2="${top + height}" stroke="#1c2b22"/>`,
    `<text x="${left}" y="${top + height + 38}">${caption}</text>`,
  ]);
}
