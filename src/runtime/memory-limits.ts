import { controlGroups, type ReadText } from "./control-groups.ts";

/**
 * What Linux leaves to this process, in bytes: the least of the machine's available memory, the limits of its control
 * groups and of those around them (cgroup v1 and v2), and its own resource limits. Nothing where none of it is known.
 * Cached files count as free: the kernel drops them (`inactive_file`, cgroups(7); MemAvailable, proc_meminfo(5)).
 */
export function linuxAvailable(read: ReadText): number | undefined {
  const known = [machineAvailable(read), ...groupsAvailable(read), ...resourcesAvailable(read)].filter(
    (bytes) => bytes !== undefined,
  );
  return known.length === 0 ? undefined : Math.max(0, Math.min(...known));
}

function machineAvailable(read: ReadText): number | undefined {
  const kilobytes = /^MemAvailable:\s+(\d+) kB$/m.exec(read("/proc/meminfo") ?? "")?.[1];
  return kilobytes === undefined ? undefined : 1024 * Number(kilobytes);
}

/** Where a version of control groups keeps what. */
interface GroupFiles {
  readonly root: string;
  readonly limits: readonly string[];
  readonly usage: string;
  readonly cached: RegExp;
}

const version1: GroupFiles = {
  root: "/sys/fs/cgroup/memory",
  limits: ["memory.limit_in_bytes"],
  usage: "memory.usage_in_bytes",
  cached: /^total_inactive_file (\d+)$/m,
};
const version2: GroupFiles = {
  root: "/sys/fs/cgroup",
  limits: ["memory.max", "memory.high"],
  usage: "memory.current",
  cached: /^inactive_file (\d+)$/m,
};

function groupsAvailable(read: ReadText): readonly number[] {
  return controlGroups(read, "memory").flatMap(({ version, path }) => {
    const files = version === 2 ? version2 : version1;
    return groupAvailable(read, files, `${files.root}${path}`);
  });
}

function groupAvailable(read: ReadText, { limits, usage, cached }: GroupFiles, folder: string): readonly number[] {
  const limit = Math.min(...limits.map((name) => numberIn(read(`${folder}/${name}`)) ?? Number.POSITIVE_INFINITY));
  if (!Number.isFinite(limit) || limit > 2 ** 60) return []; // none is written as the largest number there is
  const used = numberIn(read(`${folder}/${usage}`)) ?? 0;
  const dropped = Number(cached.exec(read(`${folder}/memory.stat`) ?? "")?.[1] ?? 0);
  return [limit - Math.max(0, used - dropped)];
}

function resourcesAvailable(read: ReadText): readonly number[] {
  const limits = read("/proc/self/limits") ?? "";
  const status = read("/proc/self/status") ?? "";
  return [
    ["Max address space", "VmSize"],
    ["Max data size", "VmData"],
  ].flatMap(([limit, used]) => {
    const most = new RegExp(`^${limit}\\s+(\\d+)`, "m").exec(limits)?.[1];
    const kilobytes = new RegExp(`^${used}:\\s+(\\d+) kB`, "m").exec(status)?.[1];
    return most === undefined ? [] : [Number(most) - 1024 * Number(kilobytes ?? 0)];
  });
}

function numberIn(text: string | undefined): number | undefined {
  const found = /^\d+$/.exec(text?.trim() ?? "")?.[0];
  return found === undefined ? undefined : Number(found);
}
