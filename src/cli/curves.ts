import type { RunSummary } from "../index.ts";
import { escapeMarkup } from "../printable.ts";
import { count } from "./progress.ts";
import { svgPage } from "./svg.ts";

const [left, top, width, height] = [64, 44, 640, 300];
const colours = ["#2f7d4f", "#b4532a", "#2b5d9b", "#8a4fa3", "#a08a1f", "#4a4a4a", "#c23b6b", "#1d8a8a"];

/** Training losses, smoothed, and validation losses as dots, over updates: an SVG document. */
export function drawCurves(title: string, runs: readonly RunSummary[]): string {
  const points = runs.flatMap(({ losses, evaluations }) => [...smooth(losses), ...evaluations]);
  const last = Math.max(1, ...points.map(({ step }) => step));
  const [low, high] = [Math.min(...points.map(({ loss }) => loss)), Math.max(...points.map(({ loss }) => loss))];
  const x = (step: number): string => (left + (step / last) * width).toFixed(1);
  const y = (loss: number): string => (top + (1 - (loss - low) / Math.max(1e-9, high - low)) * height).toFixed(1);
  const marks = [0, 0.25, 0.5, 0.75, 1].map((share) => {
    const loss = low + share * (high - low);
    return `<line x1="${left}" y1="${y(loss)}" x2="${left + width}" y2="${y(loss)}" stroke="#dde5df"/><text x="${left - 8}" y="${Number(y(loss)) + 4}" text-anchor="end">${loss.toFixed(3)}</text>`;
  });
  const drawn = runs.map(({ folder, losses, evaluations }, i) => {
    const colour = colours[i % colours.length] ?? "#000";
    const line = smooth(losses).map(({ step, loss }) => `${x(step)},${y(loss)}`);
    const dots = evaluations.map(
      ({ step, loss }) => `<circle cx="${x(step)}" cy="${y(loss)}" r="4" fill="${colour}"/>`,
    );
    const label = `<text x="${left + width + 14}" y="${top + 14 + 18 * i}" fill="${colour}">${escapeMarkup(folder)}</text>`;
    return `<polyline points="${line.join(" ")}" fill="none" stroke="${colour}" stroke-width="1.5"/>${dots.join("")}${label}`;
  });
  return svgPage(
    title,
    { width: left + width + 260, height: Math.max(top + height + 56, top + 18 * runs.length + 20) },
    [
      ...marks,
      `<text x="${left}" y="${top + height + 20}">0</text><text x="${left + width}" y="${top + height + 20}" text-anchor="end">${count(last)}</text>`,
      `<text x="${left}" y="${top + height + 42}">loss in nats over updates; lines: training, smoothed; dots: validation</text>`,
      ...drawn,
    ],
  );
}

/** Means over a fiftieth of the run on either side. */
function smooth(losses: RunSummary["losses"]): RunSummary["losses"] {
  const reach = Math.floor(losses.length / 50);
  return losses.map(({ step }, i) => {
    const near = losses.slice(Math.max(0, i - reach), i + reach + 1);
    return { step, loss: near.reduce((sum, { loss }) => sum + loss, 0) / near.length };
  });
}
