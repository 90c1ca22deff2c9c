import { TuneError } from "../../errors.ts";
import { contentHash } from "../content-hash.ts";
import type { Storage } from "../storage.ts";
import { readPaths, refuseInput } from "./guard.ts";

/** What stands at the end of a picture that Scion wrote: a hash of all the rest, so that one that was changed is known. */
const seal = /<!-- scion ([0-9a-f]{32}) --><\/svg>\n$/;

/**
 * Check that a picture can be written where it is asked for.
 * @throws {TuneError} `output-is-input`; `output-exists` when something is there that Scion did not write, or that was
 * changed since, unless the storage's guard says that it may be replaced.
 */
export async function checkPicture(storage: Storage, path: string): Promise<void> {
  const target = await storage.resolve(path);
  refuseInput(target, await readPaths(storage, storage.guard?.inputs ?? []), path);
  const size = await storage.sizeBytes(target);
  if (size === undefined || size === 0 || storage.guard?.replace) return;
  const text = new TextDecoder().decode(await storage.read(target));
  const [, hash] = seal.exec(text) ?? [];
  if (hash !== undefined && contentHash(text.replace(seal, "</svg>\n")) === hash) return;
  throw new TuneError(
    "output-exists",
    `${path} is there already, and is no picture as Scion wrote it: it stays as it is.`,
    {
      at: path,
      fix: "choose another name, or say that it may be replaced (--replace, or replace: true in code)",
    },
  );
}

/** Write a picture (SVG) in a file of its own. @throws {TuneError} as {@link checkPicture}, and what the storage throws. */
export async function writePicture(storage: Storage, path: string, svg: string): Promise<void> {
  await checkPicture(storage, path);
  await storage.write(path, svg.replace(/<\/svg>\n$/, `<!-- scion ${contentHash(svg)} --></svg>\n`));
}
