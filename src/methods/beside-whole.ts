import type { Value } from "../graph/index.ts";
import type { Adapter } from "./adapter.ts";
import { adaptedModules, parameterName } from "./attach.ts";
import { linearModules } from "./linear.ts";
import type { Site } from "./method.ts";
import { configAt, type MethodChoice, type MethodConfig, type Patterns } from "./table.ts";

/**
 * The adapter beside the pretrained weights as they are, where training took something out of them (PiSSA, OLoRA); the
 * same adapter otherwise. Weights are read one at a time.
 */
export async function besideWholeWeights(
  outputs: Readonly<Record<string, Value>>,
  adapter: Adapter,
  outputModule: string,
): Promise<Adapter> {
  const { choice } = adapter;
  const { method } = choice;
  const sites = linearModules(outputs);
  const parameters = new Map(adapter.parameters);
  let config: MethodConfig | undefined;
  let patterns = choice.patterns;
  for (const module of method.departure ? adaptedModules(outputs, { ...adapter, outputModule }) : []) {
    const linear = sites.get(module);
    if (!linear) continue; // an embedding, of which nothing is taken out
    const site: Site = { module, ...linear };
    const departure = method.departure?.(site, configAt(choice, module));
    if (!departure || site.weight.kind !== "weight") continue;
    const prefix = parameterName(module, method.name, "");
    const own = [...adapter.parameters].filter(([name]) => name.startsWith(prefix));
    const keyed = Object.fromEntries(own.map(([name, values]) => [name.slice(prefix.length), values]));
    const whole = await departure.besideWhole(await site.weight.source.read(), keyed);
    for (const [key, values] of Object.entries(whole)) parameters.set(prefix + key, values);
    config ??= departure.config(choice.config);
    patterns = mapPatterns(choice, departure.config);
  }
  return config
    ? { ...adapter, choice: { ...choice, config, ...(patterns ? { patterns } : {}) }, parameters }
    : adapter;
}

/** The patterns of options after a change of them all. */
function mapPatterns(
  { config, patterns }: MethodChoice,
  change: (config: MethodConfig) => MethodConfig,
): Patterns | undefined {
  if (!patterns) return undefined;
  return Object.fromEntries(
    Object.entries(patterns).map(([option, values]) => {
      const changed = Object.entries(values).map(([pattern, value]): [string, number] => [
        pattern,
        Number(change({ ...config, [option]: value })[option]),
      ]);
      return [option, Object.fromEntries(changed)];
    }),
  );
}
