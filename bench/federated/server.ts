import { aggregationDefaults, runningMean } from "../../src/federated/aggregate.ts";
import { sha256 } from "../../src/federated/digest.ts";
import { piecesOf, trainedPieces } from "../../src/federated/factors.ts";
import { chooseStrategy } from "../../src/federated/strategies/table.ts";
import { checkDeclared, checkNorm, readPieces, typesOf, writePieces } from "../../src/federated/validate.ts";
import { createRng } from "../../src/linalg/index.ts";
import { changeOf, medianMs, roberta } from "./made.ts";
import type { BenchPart } from "./parts.ts";

const clients = 50;

/**
 * All that a coordinator does in a round but wait: check and read uploads and add them up as they come, in any order; then refactor,
 * write and hash what goes out.
 */
export const serverPart: BenchPart = {
  name: "server",
  title: `The server's work in a round of ${clients} clients that take a second each (48 modules of 1024 × 1024, rank 8)`,
  run: async () => {
    const rows: {
      readonly name: string;
      readonly ms: number;
      readonly closing: number;
      readonly share: number;
      readonly held: number;
    }[] = [];
    for (const name of ["fedsvd", "ffa", "fedavg"]) {
      const { strategy, config } = chooseStrategy(name);
      const base = strategy.start?.(roberta(), config) ?? roberta();
      const types = typesOf(trainedPieces(base, strategy.trains));
      const uploads = Array.from({ length: clients }, (_, k) => {
        const { client, examples, delta } = changeOf(base, strategy.trains, `c${k}`, k);
        return { client, examples, bytes: writePieces(delta) };
      });
      const closings: number[] = [];
      let closes = 0;
      const rng = createRng(1, "who is last");
      const rounds = 9;
      const ms = await medianMs(rounds, async () => {
        const mean = runningMean(uploads, aggregationDefaults);
        const changes = rng.shuffle([...uploads]).map(({ client, examples, bytes }, i) => {
          if (i === clients - 1) closes = performance.now(); // the last has come
          checkDeclared(types, types, client);
          const delta = readPieces(bytes, types, client);
          checkNorm(delta, 1e6, client);
          const change = { client, examples, delta };
          mean.add(change);
          return change;
        });
        const added = mean.result();
        const context = {
          round: 0,
          rounds: 9,
          seed: 0,
          aggregation: aggregationDefaults,
          ...(added ? { mean: added } : {}),
        };
        const news = strategy.finish(base, changes, context, config);
        const next = strategy.follow(base, news, context, config);
        await sha256(writePieces(news));
        await sha256(writePieces(piecesOf(next)));
        closings.push(performance.now() - closes);
      });
      const closing = closings.sort((a, b) => a - b)[(closings.length - 1) >> 1] ?? 0;
      rows.push({ name, ms, closing, share: ms / (1000 * clients + ms), held: closing / (1000 + closing) });
    }
    return {
      table: [
        "| method | milliseconds a round | of a round in one process, clients in turn | after the last upload, in milliseconds | of a round, clients side by side |",
        "| --- | --- | --- | --- | --- |",
        ...rows.map(
          ({ name, ms, closing, share, held }) =>
            `| ${name} | ${ms.toFixed(0)} | ${(100 * share).toFixed(2)} % | ${closing.toFixed(0)} | ${(100 * held).toFixed(1)} % |`,
        ),
        "Uploads are checked as they come; where clients work side by side, what follows the last upload is what a round waits for.",
      ],
      data: rows,
      holds: rows.every(({ share, held }) => Math.max(share, held) <= 0.05),
    };
  },
};
