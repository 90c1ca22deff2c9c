import type { Llama, Token } from "node-llama-cpp";

/** llama.cpp, where its binary for this system came with the packages. */
export async function openLlamaCpp(): Promise<Llama | undefined> {
  try {
    const { getLlama, LlamaLogLevel } = await import("node-llama-cpp");
    return await getLlama({ gpu: false, build: "never", skipDownload: true, logLevel: LlamaLogLevel.error });
  } catch {
    console.warn("There is no binary of llama.cpp for this system: GGUF files are not tried in it.");
    return undefined;
  }
}

/** What llama.cpp continues a prompt with, taking the likeliest token each time. */
export async function continueInLlamaCpp(
  llama: Llama,
  file: string,
  prompt: string | readonly number[],
  { count, lora }: { readonly count: number; readonly lora?: string },
): Promise<{ readonly prompt: readonly number[]; readonly ids: readonly number[]; readonly text: string }> {
  const model = await llama.loadModel({ modelPath: file, gpuLayers: 0 });
  const context = await model.createContext({
    contextSize: 128,
    threads: 1,
    ...(lora === undefined ? {} : { lora: { adapters: [{ filePath: lora }] } }),
  });
  try {
    const given = typeof prompt === "string" ? withBos(model, model.tokenize(prompt, false)) : (prompt as Token[]); // its own numbers
    const ids: Token[] = [];
    for await (const token of context.getSequence().evaluate([...given], { temperature: 0, yieldEogToken: true })) {
      ids.push(token);
      if (ids.length >= count) break;
    }
    return { prompt: given, ids, text: model.detokenize(ids) };
  } finally {
    await context.dispose();
    await model.dispose();
  }
}

function withBos(model: { tokens: { bos: Token | null; shouldPrependBosToken: boolean } }, ids: Token[]): Token[] {
  const { bos, shouldPrependBosToken } = model.tokens;
  return shouldPrependBosToken && bos !== null ? [bos, ...ids] : ids;
}
