/*
 * How files are called that a process leaves when it is killed: what it was writing, and drafts of its locks.
 */

const uuid = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}";

/** A file half written: `.<name>.<mark of the process>-<uuid>.partial`. The first group is the mark. */
export const halfWritten: RegExp = new RegExp(`^\\..+\\.([0-9a-f]{8}-\\d+-\\d*)-${uuid}\\.partial$`);
/** A lock that did not get its name yet, or was put aside: `<name>.lock.<uuid>`. */
export const lockDraft: RegExp = new RegExp(`\\.lock\\.${uuid}$`);
