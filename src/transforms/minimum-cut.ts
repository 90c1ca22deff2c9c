/** A directed edge between numbered vertices. */
export interface Edge {
  readonly from: number;
  readonly to: number;
  readonly capacity: number;
}

/**
 * The vertices on the sink's side of a minimum cut, the smallest such side. Dinic 1970: shortest augmenting paths,
 * found a level at a time.
 */
export function minimumCut(
  vertices: number,
  edges: readonly Edge[],
  source: number,
  sink: number,
): ReadonlySet<number> {
  // Edge 2i is edges[i]; edge 2i + 1 runs back and holds what flows.
  const target: number[] = [];
  const room: number[] = [];
  const outgoing: number[][] = Array.from({ length: vertices }, () => []);
  for (const { from, to, capacity } of edges) {
    outgoing[from]?.push(target.length);
    target.push(to);
    room.push(capacity);
    outgoing[to]?.push(target.length);
    target.push(from);
    room.push(0);
  }
  const levels = (): Int32Array => {
    const level = new Int32Array(vertices).fill(-1);
    level[source] = 0;
    const queue = [source];
    for (const vertex of queue) {
      for (const edge of outgoing[vertex] ?? []) {
        const next = target[edge] as number; // the arrays are filled side by side
        if ((room[edge] as number) > 0 && level[next] === -1) {
          level[next] = (level[vertex] as number) + 1;
          queue.push(next);
        }
      }
    }
    return level;
  };
  for (let level = levels(); level[sink] !== -1; level = levels()) {
    const tried = new Int32Array(vertices);
    for (let path = augment(level, tried); path.length > 0; path = augment(level, tried)) {
      const amount = path.reduce((least, edge) => Math.min(least, room[edge] as number), Number.POSITIVE_INFINITY);
      for (const edge of path) {
        room[edge] = (room[edge] as number) - amount;
        room[edge ^ 1] = (room[edge ^ 1] as number) + amount;
      }
    }
  }
  return reachingSink();

  /** A path along rising levels with room on every edge; empty when there is none left. */
  function augment(level: Int32Array, tried: Int32Array): readonly number[] {
    const path: number[] = [];
    let vertex = source;
    while (vertex !== sink) {
      const edge = outgoing[vertex]?.[tried[vertex] as number];
      if (edge === undefined) {
        const back = path.pop();
        if (back === undefined) return [];
        vertex = target[back ^ 1] as number;
        tried[vertex] = (tried[vertex] as number) + 1;
      } else if ((room[edge] as number) > 0 && level[target[edge] as number] === (level[vertex] as number) + 1) {
        path.push(edge);
        vertex = target[edge] as number;
      } else {
        tried[vertex] = (tried[vertex] as number) + 1;
      }
    }
    return path;
  }

  function reachingSink(): ReadonlySet<number> {
    const side = new Set([sink]);
    for (const vertex of side) {
      for (const edge of outgoing[vertex] ?? []) {
        const before = target[edge] as number;
        if ((room[edge ^ 1] as number) > 0) side.add(before);
      }
    }
    return side;
  }
}
