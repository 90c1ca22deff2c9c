import { openPackedDecoder } from "../src/decode/index.ts";
import { chooseBuild, type KernelBuild } from "../src/kernels/index.ts";
import { openModel } from "../src/models/index.ts";
import { webPlatform } from "../src/runtime/web.ts";

/** What the page of `packed-decoding-page.test.ts` can be asked to do. */
export interface DecodingPage {
  /** Threads that kernels have here, and the build that is chosen. */
  readonly threads: number;
  readonly build: KernelBuild;
  /** Logits after a prompt and one more token, of a packed folder. Files as base64. */
  decode(
    files: Readonly<Record<string, string>>,
    options: { readonly threads: number; readonly build: KernelBuild },
  ): Promise<{ readonly threads: number; readonly logits: readonly number[] }>;
}

const page: DecodingPage = {
  threads: webPlatform.threads.threads,
  build: chooseBuild(),
  decode: async (files, options) => {
    for (const [name, base64] of Object.entries(files)) {
      await webPlatform.storage.write(
        `packed/${name}`,
        Uint8Array.from(atob(base64), (character) => character.charCodeAt(0)),
      );
    }
    const model = await openModel(webPlatform.storage, "packed");
    const recipe = model.recipe();
    if (recipe === undefined) throw new Error("no recipe");
    const decoder = await openPackedDecoder(model, recipe, webPlatform.threads, { ...options, lookups: "fast" });
    try {
      const first = await decoder.start([Array.from({ length: 20 }, (_, i) => i % 7)]);
      const second = await first.next([3]);
      const logits = [...(first.logits[0] ?? []), ...(second.logits[0] ?? [])];
      await second.end();
      return { threads: decoder.threads, logits };
    } finally {
      await decoder.close();
    }
  },
};

Object.assign(globalThis, { scion: page });
