import { readFileSync } from "node:fs";
import { expect, it } from "vitest";
import { golden } from "../../tests/helpers/golden.ts";
import { learningRateAt, type Schedule } from "./schedule.ts";

interface Case {
  readonly schedule: Schedule;
  readonly warmupSteps: number;
  readonly totalSteps: number;
  readonly rates: readonly number[];
}
const cases = JSON.parse(readFileSync(golden("schedules.json"), "utf8")) as Case[]; // made by the script beside it

it.each(cases)("$schedule over $totalSteps steps, $warmupSteps of warm-up, is that of transformers", (given) => {
  given.rates.forEach((rate, step) => {
    expect(learningRateAt(step, { ...given, peak: 0.003 })).toBeCloseTo(rate, 12);
  });
});
