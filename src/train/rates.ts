import { commonRates, type MethodChoice } from "../methods/index.ts";
import type { ObjectiveChoice } from "./objectives/index.ts";

/** Four peak learning rates to sweep, lowest first: the method's, times what the objective makes of them. */
export function ratesOf(
  { rates = commonRates }: Pick<MethodChoice["method"], "rates">,
  { rateFactor = 1 }: Pick<ObjectiveChoice["objective"], "rateFactor">,
): readonly [number, number, number, number] {
  const [a, b, c, d] = rates;
  const times = (rate: number): number => Number((rateFactor * rate).toPrecision(6));
  return [times(a), times(b), times(c), times(d)];
}

/** The peak learning rate of a run whose own is not given: the second of {@link ratesOf}. */
export function defaultRate(
  method: Pick<MethodChoice["method"], "rates">,
  objective: Pick<ObjectiveChoice["objective"], "rateFactor">,
): number {
  return ratesOf(method, objective)[1];
}
