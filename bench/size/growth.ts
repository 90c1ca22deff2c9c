import { svgPage } from "../../src/cli/svg.ts";

/** What was measured at one place of a sweep. */
export interface GrowthPoint {
  readonly x: number;
  readonly seconds: number;
  readonly bytes: number;
}

/** Time and memory as one thing grows. */
export interface Sweep {
  /** What grows: `tokens`. */
  readonly name: string;
  /** What the seconds are of: `an update`. */
  readonly of: string;
  readonly points: readonly GrowthPoint[];
  /** The first place that the machine has no memory for, and what it would take. */
  readonly beyond?: string;
}

/**
 * The exponent p of y = c·xᵖ through the last two points and by least squares through all: [all, last]. What does not grow yet
 * hides in the first, so the last is the one to look at.
 */
export function exponents(points: readonly (readonly [x: number, y: number])[]): readonly [all: number, last: number] {
  const logs = points.map(([x, y]) => [Math.log(x), Math.log(y)] as const);
  const mean = (of: (point: readonly [number, number]) => number): number =>
    logs.reduce((sum, point) => sum + of(point), 0) / logs.length;
  const [x0, y0] = [mean(([x]) => x), mean(([, y]) => y)];
  const all = mean(([x, y]) => (x - x0) * (y - y0)) / mean(([x]) => (x - x0) ** 2);
  const [before, last] = logs.slice(-2) as [readonly [number, number], readonly [number, number]]; // two at least
  return [all, (last[1] - before[1]) / (last[0] - before[0])];
}

const [left, top, width, height, gap] = [70, 56, 250, 180, 90];

/** Each sweep as a row of two log-log plots, time and memory, with their exponents: an SVG document. */
export function drawGrowth(title: string, sweeps: readonly Sweep[]): string {
  const body = sweeps.flatMap((sweep, row) =>
    (
      [
        [`processor's seconds of ${sweep.of}`, ({ seconds }: GrowthPoint) => seconds, "#2b5d9b"],
        ["peak memory in GB", ({ bytes }: GrowthPoint) => bytes / 1e9, "#b4532a"],
      ] as const
    ).flatMap(([label, of, colour], column) =>
      plot(sweep, { label, of, colour, x0: left + column * (width + gap), y0: top + row * (height + 70) }),
    ),
  );
  return svgPage(title, { width: left + 2 * width + gap + 30, height: top + sweeps.length * (height + 70) }, body);
}

function plot(
  { name, points }: Sweep,
  {
    label,
    of,
    colour,
    x0,
    y0,
  }: {
    readonly label: string;
    readonly of: (point: GrowthPoint) => number;
    readonly colour: string;
    readonly x0: number;
    readonly y0: number;
  },
): readonly string[] {
  const values = points.map(of);
  const [low, high] = [Math.min(...values) / 1.5, Math.max(...values) * 1.5];
  const [first, last] = [points[0]?.x ?? 1, points.at(-1)?.x ?? 2];
  const x = (value: number): number => x0 + (width * Math.log(value / first)) / Math.log(last / first);
  const y = (value: number): number => y0 + height - (height * Math.log(value / low)) / Math.log(high / low);
  const [all, end] = exponents(points.map((point) => [point.x, of(point)] as const));
  return [
    `<rect x="${x0}" y="${y0}" width="${width}" height="${height}" fill="none" stroke="#c3cfc6"/>`,
    `<text x="${x0}" y="${y0 - 8}" fill="${colour}">${label}</text>`,
    `<text x="${x0 + 8}" y="${y0 + 18}" fill="${colour}">exponent ${all.toFixed(2)}, at the end ${end.toFixed(2)}</text>`,
    `<polyline points="${points.map((point) => `${x(point.x).toFixed(1)},${y(of(point)).toFixed(1)}`).join(" ")}" fill="none" stroke="${colour}" stroke-width="1.5"/>`,
    ...points.flatMap((point, i) => [
      `<circle cx="${x(point.x).toFixed(1)}" cy="${y(of(point)).toFixed(1)}" r="3.5" fill="${colour}"/>`,
      ...(i % 2 === 0 || points.length < 5
        ? [
            `<text x="${x(point.x).toFixed(1)}" y="${y0 + height + 16}" text-anchor="middle">${short(point.x)}</text>`,
            `<text x="${x(point.x).toFixed(1)}" y="${(y(of(point)) - 8).toFixed(1)}" text-anchor="middle">${of(point).toPrecision(2)}</text>`,
          ]
        : []),
    ]),
    `<text x="${x0 + width / 2}" y="${y0 + height + 34}" text-anchor="middle">${name}</text>`,
  ];
}

function short(value: number): string {
  if (value >= 1e9) return `${(value / 1e9).toFixed(1)} B`;
  if (value >= 1e6) return `${(value / 1e6).toFixed(0)} M`;
  return value >= 1e4 ? `${(value / 1e3).toFixed(0)} k` : String(value);
}
