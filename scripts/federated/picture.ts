const colours = ["#8aa394", "#2b5d9b", "#2f7d4f", "#a08a1f", "#b4532a", "#8a4fa3", "#c23b6b", "#1d8a8a"];

/** A line of the picture: a value for each budget, NaN where there is none. */
export interface PictureLine {
  readonly name: string;
  readonly values: readonly number[];
}

const steps = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10];

/** A measure over privacy budgets, a line a method: an SVG. */
export function drawBudgets(title: string, epsilons: readonly string[], lines: readonly PictureLine[]): string {
  const [left, top, width, height] = [52, 40, 420, 240];
  const finite = lines.flatMap(({ values }) => values.filter(Number.isFinite));
  const [least, most] = [Math.min(...finite), Math.max(...finite)];
  const step = steps.find((one) => most - least <= 7 * one) ?? 20;
  const [low, high] = [
    Math.floor(least / step) * step,
    Math.max(Math.ceil(most / step), Math.floor(least / step) + 1) * step,
  ];
  const x = (i: number): number => left + 30 + (i / Math.max(1, epsilons.length - 1)) * (width - 60);
  const y = (value: number): number => top + (1 - (value - low) / (high - low)) * height;
  const marks = Array.from({ length: Math.round((high - low) / step) + 1 }, (_, i) => {
    const at = y(low + step * i).toFixed(1);
    return `<line x1="${left}" y1="${at}" x2="${left + width}" y2="${at}" stroke="#dde5df"/><text x="${left - 8}" y="${Number(at) + 4}" text-anchor="end">${Number((low + step * i).toFixed(2))}</text>`;
  });
  const drawn = lines.map(({ name, values }, k) => {
    const colour = colours[k % colours.length] ?? "#000";
    const points = values.flatMap((value, i) =>
      Number.isFinite(value) ? [`${x(i).toFixed(1)},${y(value).toFixed(1)}`] : [],
    );
    const dots = points.map(
      (point) => `<circle cx="${point.split(",")[0]}" cy="${point.split(",")[1]}" r="3" fill="${colour}"/>`,
    );
    return `<polyline points="${points.join(" ")}" fill="none" stroke="${colour}" stroke-width="1.8"/>${dots.join("")}<text x="${left + width + 14}" y="${top + 14 + 18 * k}" fill="${colour}">${name}</text>`;
  });
  const labels = epsilons.map(
    (text, i) => `<text x="${x(i).toFixed(1)}" y="${top + height + 18}" text-anchor="middle">ε = ${text}</text>`,
  );
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${left + width + 120}" height="${top + height + 40}" font-family="system-ui, sans-serif" font-size="11" fill="#1c2b22"><title>${title}</title><rect width="100%" height="100%" fill="#fff"/><text x="12" y="22" font-size="13" font-weight="600">${title}</text>${marks.join("")}${labels.join("")}${drawn.join("")}</svg>\n`;
}
