import { controlGroups, type ReadText } from "./control-groups.ts";

/**
 * How many cores Linux lets this process compute on: those of the processors that it may run on (threads of one core count
 * once: matrix products gain nothing from the second), and no more than the shares of processor time of its control
 * groups and of those around them. Nothing where none of it is known. cgroups(7), proc_pid_status(5), sysfs' cputopology.
 */
export function linuxCores(read: ReadText): number | undefined {
  const processors = allowedProcessors(read);
  if (processors.length === 0) return undefined;
  const siblings = (processor: number): string =>
    read(`/sys/devices/system/cpu/cpu${processor}/topology/thread_siblings_list`)?.trim() ?? `${processor}`;
  const cores = new Set(processors.map(siblings)).size;
  return Math.max(1, Math.min(cores, ...shares(read)));
}

/** The processors of `Cpus_allowed_list:\t0-3,8`. */
function allowedProcessors(read: ReadText): readonly number[] {
  const list = /^Cpus_allowed_list:\s*([\d,-]+)$/m.exec(read("/proc/self/status") ?? "")?.[1];
  return (list ?? "").split(",").flatMap((range) => {
    const [first, last = first] = range.split("-").map(Number);
    if (first === undefined || last === undefined || range === "") return [];
    return Array.from({ length: last - first + 1 }, (_, i) => first + i);
  });
}

/** Processors' worth of time that control groups allow: `cpu.max` in version 2, `cpu.cfs_quota_us` in version 1. */
function shares(read: ReadText): readonly number[] {
  return controlGroups(read, "cpu").flatMap(({ version, path }) => {
    const folder = version === 2 ? `/sys/fs/cgroup${path}` : `/sys/fs/cgroup/cpu${path}`;
    const text =
      version === 2
        ? read(`${folder}/cpu.max`)
        : `${read(`${folder}/cpu.cfs_quota_us`)} ${read(`${folder}/cpu.cfs_period_us`)}`;
    const [, quota, period] = /^(\d+)\s+(\d+)/.exec(text ?? "") ?? []; // none is "max", and -1 in version 1
    return quota === undefined || Number(period) === 0 ? [] : [Math.ceil(Number(quota) / Number(period))];
  });
}
