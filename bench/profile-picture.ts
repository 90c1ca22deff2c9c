/** A chart of horizontal bars. */
export interface BarChart {
  readonly title: string;
  readonly rows: readonly { readonly label: string; readonly ms: number }[];
  /** Milliseconds of all, those that no row shows included. */
  readonly total: number;
}

const rowHeight = 20;
const labelWidth = 290;
const barWidth = 420;

/** Charts of milliseconds, one below the other, as an SVG document. */
export function drawBars(title: string, charts: readonly BarChart[]): string {
  const parts: string[] = [text(16, 26, title, 'font-size="16" font-weight="600"')];
  let y = 48;
  for (const { title: heading, rows, total } of charts) {
    const longest = Math.max(...rows.map(({ ms }) => ms));
    parts.push(text(16, y + 14, `by ${heading}`, 'font-weight="600"'));
    y += rowHeight + 4;
    for (const { label, ms } of rows) {
      const width = Math.max(1, (ms / longest) * barWidth);
      parts.push(text(16, y + 14, label));
      parts.push(
        `<rect x="${labelWidth}" y="${y + 3}" width="${width.toFixed(1)}" height="14" rx="2" fill="#2f7d4f"/>`,
      );
      parts.push(text(labelWidth + width + 6, y + 14, `${ms.toFixed(1)} ms, ${((100 * ms) / total).toFixed(0)} %`));
      y += rowHeight;
    }
    y += 16;
  }
  const size = `width="${labelWidth + barWidth + 130}" height="${y}"`;
  const style = 'font-family="system-ui, sans-serif" font-size="12" fill="#1c2b22"';
  return `<svg xmlns="http://www.w3.org/2000/svg" ${size} ${style}>\n<title>${escapeText(title)}</title>\n<rect width="100%" height="100%" fill="#fff"/>\n${parts.join("\n")}\n</svg>\n`;
}

function text(x: number, y: number, content: string, attributes = ""): string {
  return `<text x="${x.toFixed(1)}" y="${y}" ${attributes}>${escapeText(content)}</text>`;
}

function escapeText(content: string): string {
  return content.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
}
