import type { QuantizedRow } from "../src/index.ts";

const [left, top, width, height] = [64, 48, 520, 320];
const colours: Readonly<Record<string, string>> = {
  shiftadd: "#2f7d4f",
  "shiftadd-lat": "#8fbf8f",
  "shiftadd-tuned": "#0b3d20",
  gptq: "#2b5d9b",
  "gptq-tuned": "#12305a",
  bcq: "#b4532a",
  rtn: "#8a8a8a",
};

/** Loss over bits a weight, a line a scheme: an SVG document. Losses above twice the model's own are cut off. */
export function drawQuality(title: string, rows: readonly QuantizedRow[]): string {
  const own = rows.find(({ report }) => report === undefined)?.loss ?? 0;
  const packed = rows.filter(({ report }) => report !== undefined);
  const [low, high] = [own * 0.97, Math.min(2 * own, Math.max(...packed.map(({ loss }) => loss), own * 1.1))];
  const bits = packed.map(({ report }) => report?.bitsPerWeight ?? 0);
  const [least, most] = [Math.min(...bits) - 0.1, Math.max(...bits) + 0.1];
  const x = (value: number): number => left + ((value - least) / (most - least)) * width;
  const y = (loss: number): number => top + (1 - (Math.min(loss, high) - low) / (high - low)) * height;
  const names = [...new Set(packed.map(({ name }) => name))];
  const lines = names.map((name, i) => {
    const points = packed
      .filter((row) => row.name === name)
      .map(({ report, loss }) => [x(report?.bitsPerWeight ?? 0), y(loss)] as const)
      .sort(([a], [b]) => a - b);
    const colour = colours[name] ?? "#000";
    const dots = points.map(
      ([px, py]) => `<circle cx="${px.toFixed(1)}" cy="${py.toFixed(1)}" r="4" fill="${colour}"/>`,
    );
    return `<polyline points="${points.map(([px, py]) => `${px.toFixed(1)},${py.toFixed(1)}`).join(" ")}" fill="none" stroke="${colour}" stroke-width="1.5"/>${dots.join("")}<text x="${left + width + 14}" y="${top + 14 + 18 * i}" fill="${colour}">${name}</text>`;
  });
  const marks = [0, 0.25, 0.5, 0.75, 1].map((share) => {
    const loss = low + share * (high - low);
    return `<line x1="${left}" y1="${y(loss).toFixed(1)}" x2="${left + width}" y2="${y(loss).toFixed(1)}" stroke="#dde5df"/><text x="${left - 8}" y="${(y(loss) + 4).toFixed(1)}" text-anchor="end">${loss.toFixed(2)}</text>`;
  });
  const ticks = Array.from({ length: Math.floor(most) - Math.ceil(least) + 1 }, (_, i) => Math.ceil(least) + i);
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${left + width + 160}" height="${top + height + 60}" font-family="system-ui, sans-serif" font-size="11" fill="#1c2b22">`,
    `<title>${title}</title>`,
    `<rect width="100%" height="100%" fill="#fff"/>`,
    `<text x="16" y="24" font-size="14" font-weight="600">${title}: loss in nats over bits a weight</text>`,
    ...marks,
    `<line x1="${left}" y1="${y(own).toFixed(1)}" x2="${left + width}" y2="${y(own).toFixed(1)}" stroke="#1c2b22" stroke-dasharray="4 3"/>`,
    ...ticks.map(
      (tick) => `<text x="${x(tick).toFixed(1)}" y="${top + height + 18}" text-anchor="middle">${tick}</text>`,
    ),
    `<text x="${left}" y="${top + height + 42}">scales counted; dashed: the model before; losses above ${high.toFixed(2)} are drawn there</text>`,
    ...lines,
    "</svg>",
    "",
  ].join("\n");
}
