import type { DataReport } from "../index.ts";
import { count } from "./progress.ts";
import { escapeText } from "./svg.ts";

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
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${Math.max(width, 460)}" height="${top + height + 52}" font-family="system-ui, sans-serif" font-size="11" fill="#1c2b22">`,
    `<title>${escapeText(title)}</title>`,
    `<rect width="100%" height="100%" fill="#fff"/>`,
    `<text x="16" y="22" font-size="14" font-weight="600">${escapeText(title)}</text>`,
    `<text x="${left - 6}" y="${top + 9}" text-anchor="end">${count(tallest)}</text>`,
    ...parts,
    `<line x1="${left}" y1="${top + height}" x2="${left + histogram.length * barWidth}" y2="${top + height}" stroke="#1c2b22"/>`,
    `<text x="${left}" y="${top + height + 38}">${caption}</text>`,
    "</svg>",
    "",
  ].join("\n");
}
