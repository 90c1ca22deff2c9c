import { aggregationDefaults } from "../../src/federated/aggregate.ts";
import { countOf } from "../../src/federated/factors.ts";
import { chooseStrategy, strategies } from "../../src/federated/strategies/table.ts";
import { changeOf, roberta } from "./made.ts";
import type { BenchPart } from "./parts.ts";

/** What the paper's table and the specification say, in numbers of float32 a direction. */
const promised: Readonly<Record<string, readonly [up: number, down: number]>> = {
  fedavg: [786_432, 786_432],
  ffa: [393_216, 393_216],
  "ffa-orth": [393_216, 393_216],
  fedsvd: [393_216, 396_288],
  "fedsvd-sqrt": [393_216, 396_288],
};

/** Numbers up and down in a round of three clients. */
export const wirePart: BenchPart = {
  name: "wire",
  title: "Numbers that travel, a client and round (RoBERTa-large: 48 modules of 1024 × 1024, rank 8; three clients)",
  run: async () => {
    const rows = [...strategies.keys()].map((name) => {
      const { strategy, config } = chooseStrategy(name);
      const base = strategy.start?.(roberta(1), config) ?? roberta(1);
      const changes = ["a", "b", "c"].map((client, k) => changeOf(base, strategy.trains, client, k));
      const context = { round: 0, rounds: 9, seed: 0, aggregation: aggregationDefaults };
      const up = 48 * countOf(changes[0]?.delta ?? new Map());
      return { name, up, down: 48 * countOf(strategy.finish(base, changes, context, config)) };
    });
    return {
      table: [
        "| method | floats up | floats down | bytes up | bytes down | specification |",
        "| --- | --- | --- | --- | --- | --- |",
        ...rows.map(
          ({ name, up, down }) =>
            `| ${name} | ${up} | ${down} | ${4 * up} | ${4 * down} | ${promised[name]?.join(" / ") ?? "52,169,730 counted dense, with a head"} |`,
        ),
      ],
      data: rows,
      holds: rows.every(
        ({ name, up, down }) => promised[name] === undefined || `${promised[name]}` === `${[up, down]}`,
      ),
    };
  },
};
