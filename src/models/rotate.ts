import type { Value } from "../graph/index.ts";
import type { KeyValue, TrunkInputs } from "./architecture.ts";
import { extend, type RotaryTables, rotaryTables, rotate } from "./blocks.ts";
import type { Rope } from "./rope.ts";

/** Queries and keys of a layer, rotated. */
interface Rotated {
  readonly query: Value;
  /** All keys and values so far, as queries meet them. */
  readonly cache: KeyValue;
  /** The same as they are kept for the next step. */
  readonly kept: KeyValue;
}

/**
 * How the layers of a trunk rotate queries and keys, each table made once. Where frequencies depend on the length of the
 * sequence (dynamic, longrope), keys are kept as they were before rotation and all of them are rotated in every step. Layers
 * behind the first still hold what earlier frequencies made of the tokens: whoever decodes computes the cache anew where they
 * change (`cacheHoldsTo`), and then decoding gives what one pass over the whole text gives.
 */
export function rotations({
  positionIds,
  keyPositionIds,
}: TrunkInputs): (rope: Rope | undefined, query: Value, own: KeyValue, past: KeyValue | undefined) => Rotated {
  const known = new Map<Rope, Map<Value, RotaryTables>>();
  const tables = (rope: Rope, at: Value): RotaryTables => {
    const ofRope = known.get(rope) ?? new Map<Value, RotaryTables>();
    known.set(rope, ofRope);
    const made = ofRope.get(at) ?? rotaryTables(at, rope.inverseFrequencies(positionIds), rope.scale);
    ofRope.set(at, made);
    return made;
  };
  return (rope, query, { key, value }, past) => {
    if (rope === undefined) {
      const cache = extend(past, { key, value });
      return { query, cache, kept: cache };
    }
    const turn = (x: Value, at: Value): Value => rotate(x, tables(rope, at), rope.rotaryDim);
    if (past === undefined || keyPositionIds === undefined || rope.frequencies) {
      const cache = extend(past, { key: turn(key, positionIds), value });
      return { query: turn(query, positionIds), cache, kept: cache };
    }
    const kept = extend(past, { key, value });
    return {
      query: turn(query, positionIds),
      cache: { key: turn(kept.key, keyPositionIds), value: kept.value },
      kept,
    };
  };
}
