import { assert } from "../errors.ts";
import { configAt, type MethodChoice, type MethodSchedule, type Trainable } from "../methods/index.ts";

/**
 * What a method's options make of a run of `steps` updates; undefined for methods that go by no schedule.
 * @throws {TuneError} `bad-option` when they do not fit.
 */
export function scheduleOf(
  choice: MethodChoice,
  trainables: readonly Trainable[],
  steps: number | undefined,
): MethodSchedule | undefined {
  const { schedule } = choice.method.training ?? {};
  if (!schedule) return undefined;
  assert(steps !== undefined, `${choice.method.name} needs to know the length of the run`);
  const modules = [...new Set(trainables.flatMap(({ module, inPlace }) => (inPlace ? [] : [module])))];
  return schedule(
    { steps, sites: modules.map((module) => ({ module, config: configAt(choice, module) })) },
    choice.config,
  );
}
