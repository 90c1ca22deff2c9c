import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { gunzipSync } from "node:zlib";

const archive = fileURLToPath(new URL("../../../shared/onnx/node-tests/node-tests.tar.gz", import.meta.url));

/** One operator test of the ONNX project: a model, and serialised tensors in and out. */
export interface NodeTest {
  readonly name: string;
  readonly model: Uint8Array;
  readonly inputs: readonly Uint8Array[];
  readonly outputs: readonly Uint8Array[];
}

/** The ONNX project's operator tests, or undefined where they are absent. */
export function readNodeTests(): readonly NodeTest[] | undefined {
  if (!existsSync(archive)) return undefined;
  const files = untar(gunzipSync(readFileSync(archive)));
  const models = [...files.keys()].filter((path) => path.endsWith("/model.onnx"));
  return models.map((path) => {
    const folder = path.slice(0, -"/model.onnx".length);
    const numbered = (kind: string): Uint8Array[] => {
      const found: Uint8Array[] = [];
      for (let i = 0; ; i++) {
        const file = files.get(`${folder}/test_data_set_0/${kind}_${i}.pb`);
        if (file === undefined) return found;
        found.push(file);
      }
    };
    const model = files.get(path) ?? new Uint8Array();
    return { name: folder, model, inputs: numbered("input"), outputs: numbered("output") };
  });
}

/** The regular files of a tar archive (POSIX.1-1988 headers of 512 bytes). */
function untar(bytes: Uint8Array): Map<string, Uint8Array> {
  const files = new Map<string, Uint8Array>();
  const text = (from: number, length: number): string => {
    const field = bytes.subarray(from, from + length);
    const end = field.indexOf(0);
    return new TextDecoder().decode(end < 0 ? field : field.subarray(0, end));
  };
  for (let at = 0; at + 512 <= bytes.length && bytes[at] !== 0; ) {
    const size = Number.parseInt(text(at + 124, 12), 8) || 0;
    const kind = text(at + 156, 1);
    if (kind === "0" || kind === "")
      files.set(text(at, 100).replace(/^\.\//, ""), bytes.subarray(at + 512, at + 512 + size));
    at += 512 + Math.ceil(size / 512) * 512;
  }
  return files;
}
