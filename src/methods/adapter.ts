import type { Tensor } from "../graph/index.ts";
import type { MethodChoice } from "./table.ts";
import type { TargetModules } from "./targets.ts";

/** What tuning leaves: the method, where it attaches, and its trained tensors. */
export interface Adapter {
  readonly choice: MethodChoice;
  readonly targets: TargetModules;
  /** By parameter name: `module.method_key` beside linear maps, the weight's own name in place of weights. */
  readonly parameters: ReadonlyMap<string, Tensor>;
  /** Updates of the run it comes from, where its method goes by a schedule. */
  readonly steps?: number;
}
