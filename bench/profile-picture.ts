/** A chart of horizontal bars. */
export interface BarChart {
  readonly title: string;
  readonly rows: readonly { readonly label: string; readonly amount: number }[];
  /** The amount of all, those that no row shows included. */
  readonly total: number;
  /** An amount with its unit. */
  readonly show: (amount: number) => string;
}

const rowHeight = 20;
const labelWidth = 270;
const barWidth = 260;
const columnWidth = labelWidth + barWidth + 140;

/** Charts as an SVG document, two side by side. */
export function drawBars(title: string, charts: readonly BarChart[]): string {
  const parts: string[] = [text(16, 26, title, 'font-size="16" font-weight="600"')];
  const columns = [40, 40];
  charts.forEach((chart, i) => {
    const column = i < charts.length / 2 ? 0 : 1;
    const { drawn, height } = drawChart(chart, 16 + column * columnWidth, columns[column] ?? 0);
    parts.push(...drawn);
    columns[column] = (columns[column] ?? 0) + height;
  });
  const size = `width="${16 + 2 * columnWidth}" height="${Math.max(...columns)}"`;
  const style = 'font-family="system-ui, sans-serif" font-size="12" fill="#1c2b22"';
  return `<svg xmlns="http://www.w3.org/2000/svg" ${size} ${style}>\n<title>${escapeText(title)}</title>\n<rect width="100%" height="100%" fill="#fff"/>\n${parts.join("\n")}\n</svg>\n`;
}

function drawChart(
  { title, rows, total, show }: BarChart,
  x: number,
  top: number,
): { drawn: string[]; height: number } {
  const longest = Math.max(...rows.map(({ amount }) => amount));
  const drawn = [text(x, top + 14, title, 'font-weight="600"')];
  let y = top + rowHeight + 4;
  for (const { label, amount } of rows) {
    const width = Math.max(1, (amount / longest) * barWidth);
    drawn.push(text(x, y + 14, label));
    drawn.push(
      `<rect x="${x + labelWidth}" y="${y + 3}" width="${width.toFixed(1)}" height="14" rx="2" fill="#2f7d4f"/>`,
    );
    drawn.push(text(x + labelWidth + width + 6, y + 14, `${show(amount)}, ${((100 * amount) / total).toFixed(0)} %`));
    y += rowHeight;
  }
  return { drawn, height: y + 16 - top };
}

function text(x: number, y: number, content: string, attributes = ""): string {
  return `<text x="${x.toFixed(1)}" y="${y}" ${attributes}>${escapeText(content)}</text>`;
}

function escapeText(content: string): string {
  return content.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
}
