import { escapeMarkup } from "../printable.ts";

/** A picture on white with its title in the corner: an SVG document. */
export function svgPage(
  title: string,
  { width, height }: { readonly width: number; readonly height: number },
  body: readonly string[],
): string {
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" font-family="system-ui, sans-serif" font-size="11" fill="#1c2b22">`,
    `<title>${escapeMarkup(title)}</title>`,
    `<rect width="100%" height="100%" fill="#fff"/>`,
    `<text x="16" y="24" font-size="14" font-weight="600">${escapeMarkup(title)}</text>`,
    ...body,
    "</svg>",
    "",
  ].join("\n");
}
