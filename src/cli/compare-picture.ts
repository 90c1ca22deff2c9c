import type { ComparedRow, ComparisonResult, Spread } from "../index.ts";
import { escapeMarkup } from "../printable.ts";
import { count } from "./progress.ts";
import { svgPage } from "./svg.ts";

const colours = ["#2f7d4f", "#b4532a", "#2b5d9b", "#8a4fa3", "#a08a1f", "#4a4a4a", "#c23b6b", "#1d8a8a"];
const [margin, labels, panelWide, across, tall] = [16, 100, 190, 4, 24];
const gap = 28;

/** One panel: a number of each method. */
interface Panel {
  readonly title: string;
  readonly value: (row: ComparedRow) => Spread | undefined;
  readonly say: (value: number) => string;
  /** `bar`: from zero. `dot`: within the range of the values, with the deviation as whiskers. */
  readonly form: "bar" | "dot";
}

/** What each method costs and gives, and its losses over learning rates: an SVG document. */
export function drawComparison(title: string, result: ComparisonResult): string {
  const { rows } = result;
  const panels = panelsOf(result);
  const lines = Math.ceil(panels.length / across);
  const panelTall = 24 + rows.length * tall + 18;
  const top = 48;
  const sweepTop = top + lines * panelTall + 24;
  const width = 2 * margin + labels + across * panelWide;
  const drawn = panels.map((panel, i) => {
    const x = margin + labels + (i % across) * panelWide;
    const y = top + Math.floor(i / across) * panelTall;
    return drawPanel(panel, rows, { x, y });
  });
  const names = Array.from({ length: lines }).flatMap((_, line) =>
    rows.map(
      ({ name }, i) =>
        `<text x="${margin}" y="${top + line * panelTall + 24 + i * tall + 12}" fill="${colourOf(i)}" font-weight="600">${escapeMarkup(name)}</text>`,
    ),
  );
  return svgPage(title, { width: width, height: sweepTop + 300 }, [
    ...names,
    ...drawn,
    drawSweeps(rows, { x: margin + labels, y: sweepTop, wide: across * panelWide - gap, high: 220 }),
  ]);
}

function panelsOf({ rows, tested }: ComparisonResult): readonly Panel[] {
  const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(bytes < 1e7 ? 2 : 0)} MB`;
  const bar = (title: string, of: (row: ComparedRow) => number | undefined, say: Panel["say"]): Panel => ({
    title,
    say,
    form: "bar",
    value: (row) => {
      const mean = of(row);
      return mean === undefined ? undefined : { mean };
    },
  });
  const names = [...new Set(rows.flatMap(({ best }) => Object.keys(best?.measures ?? {})))];
  return [
    bar("trained parameters", (row) => row.trainedParameters, count),
    bar(
      "stored",
      (row) => row.storedBytes,
      (bytes) => `${count(bytes / 1e3)} kB`,
    ),
    bar(
      "an update",
      (row) => row.stepMs,
      (ms) => `${ms.toFixed(1)} ms`,
    ),
    bar("saved for the backward pass", (row) => row.savedBytes, megabytes),
    bar("planned peak memory", (row) => row.plannedPeakBytes, megabytes),
    ...names.map(
      (name): Panel => ({
        title: `${tested ? "test" : "validation"} ${name}`,
        say: (value) => value.toFixed(Math.abs(value) >= 100 ? 1 : 4),
        form: "dot",
        value: ({ best }) => best?.measures[name],
      }),
    ),
  ];
}

function drawPanel(
  { title, value, say, form }: Panel,
  rows: readonly ComparedRow[],
  { x, y }: { readonly x: number; readonly y: number },
): string {
  const values = rows.map(value);
  const known = values.filter((spread) => spread !== undefined);
  const ends = known.flatMap(({ mean, deviation = 0 }) => [mean - deviation, mean + deviation]);
  const low = form === "bar" ? 0 : Math.min(...ends);
  const high = Math.max(...ends);
  const wide = form === "bar" ? 90 : 70;
  const at = (number: number): number => x + Math.max(0, (number - low) / Math.max(1e-12, high - low)) * wide;
  const marks = values.map((spread, i) => {
    const middle = y + 24 + i * tall + 8;
    if (spread === undefined) return `<text x="${x}" y="${middle + 4}">–</text>`;
    const { mean, deviation } = spread;
    const colour = colourOf(i);
    if (form === "bar") {
      const long = Math.max(1, at(mean) - x).toFixed(1);
      return `<rect x="${x}" y="${middle - 7}" width="${long}" height="14" rx="2" fill="${colour}"/><text x="${(x + Number(long) + 6).toFixed(1)}" y="${middle + 4}">${say(mean)}</text>`;
    }
    const whisker =
      deviation === undefined
        ? ""
        : `<line x1="${at(mean - deviation).toFixed(1)}" y1="${middle}" x2="${at(mean + deviation).toFixed(1)}" y2="${middle}" stroke="${colour}" stroke-width="2"/>`;
    const label = `${say(mean)}${deviation === undefined ? "" : ` ± ${say(deviation)}`}`;
    return `${whisker}<circle cx="${at(mean).toFixed(1)}" cy="${middle}" r="4" fill="${colour}"/><text x="${x + wide + 12}" y="${middle + 4}">${label}</text>`;
  });
  return `<text x="${x}" y="${y + 12}" fill="#5b6b61">${escapeMarkup(title)}</text>${marks.join("")}`;
}

/** Mean validation loss over learning rates on a scale of powers of ten; crosses where a run diverged. */
function drawSweeps(
  rows: readonly ComparedRow[],
  { x, y, wide, high }: { readonly x: number; readonly y: number; readonly wide: number; readonly high: number },
): string {
  const rates = rows.flatMap((row) => row.rates.map(({ learningRate }) => Math.log10(learningRate)));
  const losses = rows.flatMap((row) =>
    row.rates.flatMap(({ validationLoss: loss }) =>
      loss ? [loss.mean - (loss.deviation ?? 0), loss.mean + (loss.deviation ?? 0)] : [],
    ),
  );
  const [first, last] = [Math.min(...rates), Math.max(...rates)];
  const [least, most] = losses.length > 0 ? [Math.min(...losses), Math.max(...losses)] : [0, 1];
  const across = (rate: number): string =>
    (x + (last === first ? 0.5 : (Math.log10(rate) - first) / (last - first)) * wide).toFixed(1);
  const down = (loss: number): string => (y + (1 - (loss - least) / Math.max(1e-9, most - least)) * high).toFixed(1);
  const grid = [0, 0.25, 0.5, 0.75, 1].map((share) => {
    const loss = least + share * (most - least);
    return `<line x1="${x}" y1="${down(loss)}" x2="${x + wide}" y2="${down(loss)}" stroke="#dde5df"/><text x="${x - 8}" y="${Number(down(loss)) + 4}" text-anchor="end">${loss.toFixed(3)}</text>`;
  });
  const ticks = [...new Set(rows.flatMap((row) => row.rates.map(({ learningRate }) => learningRate)))].map(
    (rate) => `<text x="${across(rate)}" y="${y + high + 18}" text-anchor="middle">${rate.toExponential()}</text>`,
  );
  const drawn = rows.map((row, i) => {
    const colour = colourOf(i);
    const points = row.rates.flatMap(({ learningRate, validationLoss }) =>
      validationLoss ? [{ learningRate, ...validationLoss }] : [],
    );
    const line = points.map(({ learningRate, mean }) => `${across(learningRate)},${down(mean)}`).join(" ");
    const marks = points.map(({ learningRate, mean, deviation = 0 }) => {
      const best = learningRate === row.best?.learningRate;
      return `<line x1="${across(learningRate)}" y1="${down(mean - deviation)}" x2="${across(learningRate)}" y2="${down(mean + deviation)}" stroke="${colour}"/><circle cx="${across(learningRate)}" cy="${down(mean)}" r="${best ? 5 : 3}" fill="${best ? colour : "#fff"}" stroke="${colour}"/>`;
    });
    const lost = row.rates
      .filter(({ diverged }) => diverged > 0)
      .map(
        ({ learningRate }) =>
          `<text x="${across(learningRate)}" y="${y + 4}" text-anchor="middle" fill="${colour}">×</text>`,
      );
    return `<polyline points="${line}" fill="none" stroke="${colour}" stroke-width="1.5"/>${marks.join("")}${lost.join("")}`;
  });
  return [
    ...grid,
    ...ticks,
    `<text x="${x}" y="${y + high + 40}">mean validation loss over the learning rate; full dots: the chosen rates; bars: ± a standard deviation over seeds; ×: a run diverged</text>`,
    ...drawn,
  ].join("\n");
}

function colourOf(index: number): string {
  return colours[index % colours.length] ?? "#000";
}
