/** A point of a scatter plot. */
export interface Point {
  readonly name: string;
  readonly family: string;
  readonly x: number;
  readonly y: number;
}

const colours = ["#2f7d4f", "#b4532a", "#2b5d9b"];

/** Points by family, as an SVG document. */
export function drawScatter(title: string, across: string, up: string, points: readonly Point[]): string {
  const [left, top, width, height] = [64, 60, 520, 284];
  const families = [...new Set(points.map(({ family }) => family))];
  const [mostX, mostY] = [
    Math.max(1, ...points.map(({ x }) => x)) * 1.05,
    Math.max(...points.map(({ y }) => y)) * 1.08,
  ];
  const x = (value: number): string => (left + (value / mostX) * width).toFixed(1);
  const y = (value: number): string => (top + height * (1 - value / mostY)).toFixed(1);
  const marks = [0, 0.25, 0.5, 0.75, 1].flatMap((share) => [
    `<line x1="${left}" y1="${y(share * mostY)}" x2="${left + width}" y2="${y(share * mostY)}" stroke="#dde5df"/>`,
    `<text x="${left - 8}" y="${Number(y(share * mostY)) + 4}" text-anchor="end">${(share * mostY).toFixed(2)}</text>`,
    `<text x="${x(share * mostX)}" y="${top + height + 18}" text-anchor="middle">${Math.round(share * mostX)}</text>`,
  ]);
  const dots = points.map(({ name, family, x: px, y: py }) => {
    const colour = colours[families.indexOf(family)] ?? "#4a4a4a";
    return `<circle cx="${x(px)}" cy="${y(py)}" r="5" fill="${colour}"><title>${name}</title></circle>`;
  });
  const legend = families.map(
    (family, i) => `<text x="${left + width + 18}" y="${top + 14 + 18 * i}" fill="${colours[i]}">● ${family}</text>`,
  );
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 700 400" width="700" height="400" font-family="system-ui, sans-serif" font-size="11" fill="#1c2b22">`,
    `<title>${title}</title><rect width="100%" height="100%" fill="#fff"/>`,
    `<text x="16" y="24" font-size="14" font-weight="600">${title}</text>`,
    ...marks,
    `<text x="${left + width}" y="${top + height + 38}" text-anchor="end">${across}</text>`,
    `<text x="16" y="42">${up}</text>`,
    ...dots,
    ...legend,
    "</svg>",
    "",
  ].join("\n");
}
