import type { RoundSummary } from "../federated/index.ts";
import { escapeMarkup } from "../printable.ts";
import type { FederationComparison } from "./compare-federations.ts";
import type { FederationResult } from "./federate.ts";

const colours = ["#2f7d4f", "#b4532a", "#2b5d9b", "#8a4fa3", "#a08a1f", "#4a4a4a", "#c23b6b", "#1d8a8a"];

/** A line of a chart: values by position from 0; what is not finite is left out. */
interface Line {
  readonly name: string;
  readonly values: readonly number[];
}

/** Lines over rounds: an SVG. */
function chart(title: string, lines: readonly Line[], { legend = true }: { readonly legend?: boolean } = {}): string {
  const [left, top, width, height] = [56, 34, 520, 220];
  const finite = lines.flatMap(({ values }) => values.filter(Number.isFinite));
  if (finite.length === 0) return "";
  const [low, high] = [Math.min(...finite), Math.max(...finite)];
  const last = Math.max(1, ...lines.map(({ values }) => values.length - 1));
  const x = (i: number): string => (left + (i / last) * width).toFixed(1);
  const y = (value: number): string => (top + (1 - (value - low) / Math.max(1e-12, high - low)) * height).toFixed(1);
  const marks = [0, 0.25, 0.5, 0.75, 1].map((share) => {
    const value = low + share * (high - low);
    return `<line x1="${left}" y1="${y(value)}" x2="${left + width}" y2="${y(value)}" stroke="#dde5df"/><text x="${left - 8}" y="${Number(y(value)) + 4}" text-anchor="end">${value.toPrecision(3)}</text>`;
  });
  const drawn = lines.map(({ name, values }, k) => {
    const colour = colours[k % colours.length] ?? "#000";
    const points = values.flatMap((value, i) => (Number.isFinite(value) ? [`${x(i)},${y(value)}`] : []));
    const label = legend
      ? `<text x="${left + width + 12}" y="${top + 12 + 16 * k}" fill="${colour}">${escapeMarkup(name)}</text>`
      : "";
    return `<polyline points="${points.join(" ")}" fill="none" stroke="${colour}" stroke-width="1.5"><title>${escapeMarkup(name)}</title></polyline>${label}`;
  });
  const tall = Math.max(top + height + 40, legend ? top + 16 * lines.length + 20 : 0);
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${left + width + (legend ? 220 : 20)}" height="${tall}" font-family="system-ui, sans-serif" font-size="11" fill="#1c2b22"><title>${escapeMarkup(title)}</title><text x="8" y="18" font-weight="600" font-size="13">${escapeMarkup(title)}</text>${marks.join("")}<text x="${left}" y="${top + height + 18}">0</text><text x="${left + width}" y="${top + height + 18}" text-anchor="end">round ${last}</text>${drawn.join("")}</svg>`;
}

function page(title: string, body: readonly string[]): string {
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>${escapeMarkup(title)}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2b22; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-size: 13px; }
th, td { text-align: right; padding: 0.2rem 0.6rem; border-bottom: 1px solid #dde5df; }
th:first-child, td:first-child { text-align: left; }
.wide { overflow-x: auto; }
</style>
</head>
<body>
<h1>${escapeMarkup(title)}</h1>
${body.join("\n")}
</body>
</html>
`;
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const cells = (row: readonly string[], tag: string): string =>
    `<tr>${row.map((text) => `<${tag}>${escapeMarkup(text)}</${tag}>`).join("")}</tr>`;
  return `<div class="wide"><table><thead>${cells(head, "th")}</thead><tbody>${rows.map((row) => cells(row, "td")).join("")}</tbody></table></div>`;
}

function number(value: number | undefined): string {
  return value === undefined || !Number.isFinite(value) ? "–" : value.toFixed(4);
}

/** A federation as a page that stands alone: curves by round and client, who took part, what travelled. */
export function federationPage(
  { history, base, plan, ended, why }: Pick<FederationResult, "history" | "base" | "plan" | "ended" | "why">,
  clients: Readonly<Record<string, number>>,
): string {
  const measures = Object.keys(base);
  const of = (name: string): Line => ({
    name,
    values: [base, ...history.map((round) => round.measures)].map((one) => one[name] ?? Number.NaN),
  });
  const names = Object.keys(clients);
  const losses = names.map((name) => ({
    name,
    values: [Number.NaN, ...history.map(({ clients: own }) => own[name]?.loss ?? Number.NaN)],
  }));
  const sum = (count: (round: RoundSummary) => number): number =>
    history.reduce((total, round) => total + count(round), 0);
  const missed = ({ refused, declined, silent }: RoundSummary, name: string): string | undefined =>
    refused[name] ?? declined[name] ?? (silent.includes(name) ? "silent" : undefined);
  const rows = names.map((name) => {
    const own = history.flatMap(({ clients: those }) => those[name] ?? []);
    const absent = [...new Set(history.flatMap((round) => missed(round, name) ?? []))];
    return [
      name,
      String(clients[name]),
      String(own.length),
      own.length === 0
        ? "–"
        : `${((100 * own.reduce((total, { share }) => total + share, 0)) / own.length).toFixed(1)} %`,
      number(own.at(-1)?.loss),
      absent.join("; ") || "–",
    ];
  });
  return page(`Federation: ${plan.strategy}`, [
    `<p><b>${history.length} of ${plan.rounds} rounds</b> (${escapeMarkup(ended)}${why ? `: ${escapeMarkup(why)}` : ""}), ${names.length} clients, ${plan.localSteps} local updates of ${plan.batchSize} examples at rate ${plan.learningRate}. Sent up ${megabytes(sum(({ bytes }) => bytes.up))}, down ${megabytes(sum(({ bytes }) => bytes.down))}.</p>`,
    table(
      ["measure", "base model", "last round"],
      measures.map((name) => [name, number(base[name]), number(history.at(-1)?.measures[name])]),
    ),
    ...measures.map((name) => chart(`${name} on held-back rows`, [of(name)], { legend: false })),
    chart("training loss of each client", losses, { legend: names.length <= 16 }),
    "<h2>Clients</h2>",
    table(["client", "examples", "rounds", "mean share", "last loss", "missed"], rows),
    "<h2>Settings</h2>",
    table(
      ["setting", "value"],
      Object.entries(plan).map(([name, value]) => [
        name,
        typeof value === "object" ? JSON.stringify(value) : String(value),
      ]),
    ),
  ]);
}

/** A comparison of federations as a page that stands alone. */
export function comparisonPage({ rows, runs, done, total, seeds }: FederationComparison): string {
  const names = [...new Set(rows.flatMap(({ best }) => Object.keys(best?.measures ?? {})))];
  const spread = (value: { readonly mean: number; readonly deviation?: number } | undefined): string =>
    value === undefined
      ? "–"
      : `${number(value.mean)}${value.deviation === undefined ? "" : ` ± ${number(value.deviation)}`}`;
  const curves = (measure: string): readonly Line[] =>
    rows.flatMap(({ name, best }) => {
      const own = runs.filter((run) => run.name === name && run.learningRate === best?.learningRate && run.finished);
      const length = own[0]?.rounds.length ?? 0;
      const values = Array.from(
        { length },
        (_, i) => own.reduce((sum, run) => sum + (run.rounds[i]?.[measure] ?? Number.NaN), 0) / own.length,
      );
      return own.length === 0 ? [] : [{ name: `${name} (${best?.learningRate})`, values }];
    });
  const rates = [...new Set(runs.map(({ learningRate }) => learningRate))].sort((a, b) => a - b);
  return page("Federations compared", [
    `<p>${done} of ${total} federations are done; ${seeds.length} seeds. Each method at the rate with the lowest loss in the last round.</p>`,
    table(
      ["method", "best rate", ...names, "sent up", "sent down"],
      rows.map(({ name, best }) => {
        const own = runs.filter((run) => run.name === name);
        const mean = (of: (run: (typeof own)[number]) => number): number =>
          own.reduce((sum, run) => sum + of(run), 0) / Math.max(1, own.length);
        return [
          name,
          best ? `${best.learningRate}${best.atEdge ? " (edge)" : ""}` : "–",
          ...names.map((one) => spread(best?.measures[one])),
          megabytes(mean(({ bytes }) => bytes.up)),
          megabytes(mean(({ bytes }) => bytes.down)),
        ];
      }),
    ),
    ...names.map((name) => chart(`${name} by round, each method at its best rate`, curves(name))),
    "<h2>Loss at every rate</h2>",
    table(
      ["method", ...rates.map(String)],
      rows.map(({ name, rates: own }) => [
        name,
        ...rates.map((rate) => {
          const found = own.find(({ learningRate }) => learningRate === rate);
          return found?.failed ? `${found.failed} failed` : spread(found?.measures?.["loss"]);
        }),
      ]),
    ),
  ]);
}

function megabytes(bytes: number): string {
  return bytes < 1e5 ? `${(bytes / 1e3).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}
