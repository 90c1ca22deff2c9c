import { assert } from "../errors.ts";
import type { KernelMemory, Room } from "./arena.ts";
import { type KernelBuild, type Kernels, openKernels } from "./module.ts";

/** What a thread needs to join: it travels as a message. */
export interface ThreadStart {
  readonly memory: KernelMemory;
  readonly build: KernelBuild;
  /** 1 and up; the thread that asks for work is 0. */
  readonly thread: number;
  readonly threads: number;
  /** Where the words that they agree by are; {@link teamBytes} of them. */
  readonly control: number;
}

/** Where threads and memory can be had. A platform gives it; nothing else starts threads. */
export interface ThreadHost {
  /** Threads that can work at the same time on one memory: 1 where memory cannot be shared. */
  readonly threads: number;
  /** Whether the calling thread may sleep until another wakes it; a page's may not. */
  readonly maySleep: boolean;
  /** Start a thread that calls {@link serveTeam}; the promise settles when it is ready. The result ends it by force. */
  startThread(start: ThreadStart): Promise<() => Promise<void>>;
  /** Free the memory of buffers that nobody reads any more, now, where that can be done. */
  readonly freeBuffers?: (buffers: readonly ArrayBufferView[]) => void;
}

/** Threads that run programs together. */
export interface Team {
  readonly kernels: Kernels;
  readonly threads: number;
  /** Run a program to its end on all threads; its last step must wait. Never after `close`: it would wait for nobody. */
  run(steps: Room, count: number): void;
  /** End the threads. */
  close(): Promise<void>;
}

/** Words of the control block. */
const word = { sync: 0, work: 4, steps: 8, count: 9, stop: 10 } as const;

/** Bytes of the control block. */
export const teamBytes = 64;

/** Open the kernels on a memory, with as many threads as are asked for. */
export async function openTeam(
  memory: KernelMemory,
  control: Room,
  host: ThreadHost,
  { threads, build, shared }: { readonly threads: number; readonly build: KernelBuild; readonly shared: boolean },
): Promise<Team> {
  const kernels = openKernels(memory, { build, shared });
  const words = new Int32Array(memory.buffer, control.at, teamBytes / 4);
  const maySleep = Number(host.maySleep);
  const others = Array.from({ length: threads - 1 }, (_, i) => i + 1);
  const started = await Promise.allSettled(
    others.map((thread) => host.startThread({ memory, build, thread, threads, control: control.at })),
  );
  const ends = started.flatMap((one) => (one.status === "fulfilled" ? [one.value] : []));
  const failed = started.find((one) => one.status === "rejected");
  let closed = false;
  const close = async (): Promise<void> => {
    if (closed) return;
    closed = true;
    words[word.stop] = 1;
    kernels.release(control.at + 4 * word.work);
    await Promise.all(ends.map((end) => end()));
  };
  if (failed) {
    await close();
    throw failed.reason;
  }
  return {
    kernels,
    threads,
    run: (steps, count) => {
      assert(!closed, "a team runs nothing after it was closed");
      words[word.steps] = steps.at;
      words[word.count] = count;
      if (threads > 1) kernels.release(control.at + 4 * word.work);
      kernels.run(0, threads, steps.at, count, control.at + 4 * word.sync, maySleep);
    },
    close,
  };
}

/** What a started thread does until the team closes: wait for work, and take part in it. It blocks its thread. */
export function serveTeam({ memory, build, thread, threads, control }: ThreadStart, ready: () => void): void {
  const kernels = openKernels(memory, { build, shared: true });
  const words = new Int32Array(memory.buffer, control, teamBytes / 4);
  let generation = Atomics.load(words, word.work);
  ready();
  for (;;) {
    kernels.waitFor(control + 4 * word.work, generation, 1);
    if (Atomics.load(words, word.stop) === 1) return;
    generation++;
    kernels.run(thread, threads, words[word.steps] ?? 0, words[word.count] ?? 0, control + 4 * word.sync, 1);
  }
}
